"""What every test starts from."""

import torch

# One thread, so that the bits of a result do not depend on the number of cores.
torch.set_num_threads(1)
