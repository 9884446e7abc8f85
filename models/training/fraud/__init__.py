"""How the application-fraud model was made: a generated event stream, velocity counters, training and export."""
