"""service/alerts."""
