"""service/monitor."""
