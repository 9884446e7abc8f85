"""Backup and restore of what a host keeps: made while servers run, verified, and never over what is there."""
