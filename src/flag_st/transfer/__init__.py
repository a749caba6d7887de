"""Bytes from elsewhere: verified downloads and published weights."""
