"""What is served to whom, and how that changes without harm: bundles kept, arms, shadows, cut-outs, the switch."""
