"What several test files share."
import pytest


@pytest.fixture
def one_thread():
    "Many tiny tensors: more threads only wait for each other"
    import torch
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
