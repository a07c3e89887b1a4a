"""What travels: control messages in protobuf, tensors as a header and raw bytes."""
