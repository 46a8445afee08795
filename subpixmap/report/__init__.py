"""Numbers -> something a person looks at."""
