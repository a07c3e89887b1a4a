"""How much travels at once; apart from the tensors, so that small commands start without torch."""

CHUNK = 1 << 20
"""A payload travels in pieces of so many bytes."""

MESSAGE_LIMITS = [
    ("grpc.max_receive_message_length", CHUNK + (1 << 16)),
    ("grpc.max_send_message_length", CHUNK + (1 << 16)),
    ("grpc.http2.max_frame_size", CHUNK),  # else each is cut into 64 frames
]
"""Options of a gRPC channel or server: a message is a chunk and a little more."""
