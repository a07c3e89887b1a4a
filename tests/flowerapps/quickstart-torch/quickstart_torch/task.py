"""A model, made-up data, and the loops over both."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two dense layers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, hidden)
        self.fc2 = nn.Linear(hidden, 3)

    def forward(self, x):
        """Return the scores of three classes."""
        return self.fc2(torch.relu(self.fc1(x)))


def load_data(partition_id: int, num_partitions: int, batch_size: int):
    """Return the training and test examples of a partition."""
    generator = torch.Generator().manual_seed(100 + partition_id)
    x = torch.randn(24 + 4 * (partition_id % 3), 4, generator=generator)
    y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    order = torch.Generator().manual_seed(partition_id)
    train = DataLoader(
        TensorDataset(x[8:], y[8:]), batch_size=batch_size, shuffle=True, generator=order
    )
    return train, DataLoader(TensorDataset(x[:8], y[:8]), batch_size=batch_size)


def train(net, loader, epochs, lr, device):
    """Train; return the mean loss."""
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    total = 0.0
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(net, loader, device):
    """Return the mean loss and the accuracy."""
    net.to(device)
    net.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            scores = net(x.to(device))
            loss += functional.cross_entropy(scores, y.to(device), reduction="sum").item()
            correct += (scores.argmax(1) == y.to(device)).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)
