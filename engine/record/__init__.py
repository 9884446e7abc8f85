"""The record of decisions: how one is built, and the local journal that it is in before the answer leaves."""
