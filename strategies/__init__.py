"""The mathematics of federated learning, without any IO."""
