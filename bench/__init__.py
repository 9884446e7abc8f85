"""What a decision costs, measured against the price of gRPC itself."""
