"""service/notify."""
