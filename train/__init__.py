"""Training application of the repository: `accelerate launch -m train --config ...`."""
