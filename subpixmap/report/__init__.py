"""Reports: figures, tables and the report page."""

__all__ = ["write_report"]


def __getattr__(name: str) -> object:  # matplotlib is slow to import: it is imported when a report is made
    if name == "write_report":
        from subpixmap.report.page import write_report

        return write_report
    raise AttributeError(f"module {__name__} has no attribute {name}")
