"""The demonstration: real decisions on real applicants, from nothing, in one command."""
