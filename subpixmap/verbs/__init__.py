"""Every verb as a function; the only place where engine and school meet."""
