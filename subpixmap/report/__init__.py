"""Numbers -> something a person looks at."""

__all__ = ["write_report"]


def __getattr__(name: str) -> object:  # matplotlib is heavy: it is loaded when a report is asked for
    if name == "write_report":
        from subpixmap.report.page import write_report

        return write_report
    raise AttributeError(f"module {__name__} has no attribute {name}")
