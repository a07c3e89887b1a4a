from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Ticket(_message.Message):
    __slots__ = ("run", "round", "client_id", "stage", "attempt")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    client_id: int
    stage: int
    attempt: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., client_id: _Optional[int] = ..., stage: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "node", "version", "minor", "capabilities")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    version: str
    minor: int
    capabilities: Capabilities
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., version: _Optional[str] = ..., minor: _Optional[int] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("cores", "memory_bytes", "device", "machine", "python", "torch")
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    cores: int
    memory_bytes: int
    device: str
    machine: str
    python: str
    torch: str
    def __init__(self, cores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., device: _Optional[str] = ..., machine: _Optional[str] = ..., python: _Optional[str] = ..., torch: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("run", "session", "experiment", "minor")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    run: str
    session: str
    experiment: str
    minor: int
    def __init__(self, run: _Optional[str] = ..., session: _Optional[str] = ..., experiment: _Optional[str] = ..., minor: _Optional[int] = ...) -> None: ...

class HostRequest(_message.Message):
    __slots__ = ("session", "client_ids", "population", "fingerprint", "states", "own_data")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    OWN_DATA_FIELD_NUMBER: _ClassVar[int]
    session: str
    client_ids: _containers.RepeatedScalarFieldContainer[int]
    population: int
    fingerprint: str
    states: _containers.RepeatedCompositeFieldContainer[HeldState]
    own_data: bool
    def __init__(self, session: _Optional[str] = ..., client_ids: _Optional[_Iterable[int]] = ..., population: _Optional[int] = ..., fingerprint: _Optional[str] = ..., states: _Optional[_Iterable[_Union[HeldState, _Mapping]]] = ..., own_data: _Optional[bool] = ...) -> None: ...

class HeldState(_message.Message):
    __slots__ = ("client_id", "committed", "pending")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    committed: int
    pending: int
    def __init__(self, client_id: _Optional[int] = ..., committed: _Optional[int] = ..., pending: _Optional[int] = ...) -> None: ...

class HostReply(_message.Message):
    __slots__ = ("heartbeat_s", "settled", "client_id")
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    heartbeat_s: float
    settled: _containers.RepeatedCompositeFieldContainer[SettledState]
    client_id: int
    def __init__(self, heartbeat_s: _Optional[float] = ..., settled: _Optional[_Iterable[_Union[SettledState, _Mapping]]] = ..., client_id: _Optional[int] = ...) -> None: ...

class SettledState(_message.Message):
    __slots__ = ("client_id", "round")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    round: int
    def __init__(self, client_id: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class PollRequest(_message.Message):
    __slots__ = ("session", "taken")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    session: str
    taken: int
    def __init__(self, session: _Optional[str] = ..., taken: _Optional[int] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("train", "evaluate", "commit", "over", "number")
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    train: Train
    evaluate: Evaluate
    commit: Commit
    over: RunOver
    number: int
    def __init__(self, train: _Optional[_Union[Train, _Mapping]] = ..., evaluate: _Optional[_Union[Evaluate, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., over: _Optional[_Union[RunOver, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("ticket", "base_version", "payload")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ticket: Ticket
    base_version: int
    payload: Payload
    def __init__(self, ticket: _Optional[_Union[Ticket, _Mapping]] = ..., base_version: _Optional[int] = ..., payload: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...

class Evaluate(_message.Message):
    __slots__ = ("ticket", "payload", "split")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    ticket: Ticket
    payload: Payload
    split: str
    def __init__(self, ticket: _Optional[_Union[Ticket, _Mapping]] = ..., payload: _Optional[_Union[Payload, _Mapping]] = ..., split: _Optional[str] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("round", "client_ids")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    round: int
    client_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, round: _Optional[int] = ..., client_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class RunOver(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("size", "digest")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    size: int
    digest: bytes
    def __init__(self, size: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class BeatRequest(_message.Message):
    __slots__ = ("session", "activity")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    session: str
    activity: Activity
    def __init__(self, session: _Optional[str] = ..., activity: _Optional[_Union[Activity, _Mapping]] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("client_id", "round", "what", "done", "total")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    round: int
    what: str
    done: int
    total: int
    def __init__(self, client_id: _Optional[int] = ..., round: _Optional[int] = ..., what: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class BeatReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("session", "digest", "offset")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: str
    digest: bytes
    offset: int
    def __init__(self, session: _Optional[str] = ..., digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Metrics(_message.Message):
    __slots__ = ("sums", "count")
    class SumsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SUMS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    sums: _containers.ScalarMap[str, float]
    count: int
    def __init__(self, sums: _Optional[_Mapping[str, float]] = ..., count: _Optional[int] = ...) -> None: ...

class UpdateHeader(_message.Message):
    __slots__ = ("session", "ticket", "base_version", "num_examples", "num_steps", "scalars", "metrics", "seconds", "payload", "offset")
    class ScalarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: str
    ticket: Ticket
    base_version: int
    num_examples: int
    num_steps: int
    scalars: _containers.ScalarMap[str, float]
    metrics: Metrics
    seconds: float
    payload: Payload
    offset: int
    def __init__(self, session: _Optional[str] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., base_version: _Optional[int] = ..., num_examples: _Optional[int] = ..., num_steps: _Optional[int] = ..., scalars: _Optional[_Mapping[str, float]] = ..., metrics: _Optional[_Union[Metrics, _Mapping]] = ..., seconds: _Optional[float] = ..., payload: _Optional[_Union[Payload, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class ProgressRequest(_message.Message):
    __slots__ = ("session", "ticket", "digest")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    session: str
    ticket: Ticket
    digest: bytes
    def __init__(self, session: _Optional[str] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ProgressReply(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UpdateHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UpdateHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class FailureReport(_message.Message):
    __slots__ = ("session", "ticket", "stage", "error", "location", "traceback")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    session: str
    ticket: Ticket
    stage: str
    error: str
    location: str
    traceback: str
    def __init__(self, session: _Optional[str] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., stage: _Optional[str] = ..., error: _Optional[str] = ..., location: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...

class EvaluationReport(_message.Message):
    __slots__ = ("session", "ticket", "metrics")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    session: str
    ticket: Ticket
    metrics: Metrics
    def __init__(self, session: _Optional[str] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., metrics: _Optional[_Union[Metrics, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("accepted", "reason")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    def __init__(self, request: _Optional[bytes] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("token_id", "secret", "node", "request")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    secret: bytes
    node: str
    request: bytes
    def __init__(self, token_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., node: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("certificate", "authority")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    authority: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., authority: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: str
    def __init__(self, status: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("node", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: str
    reason: str
    def __init__(self, node: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class IssueTokenRequest(_message.Message):
    __slots__ = ("seconds", "uses")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    uses: int
    def __init__(self, seconds: _Optional[float] = ..., uses: _Optional[int] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("id", "token")
    ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: str
    token: str
    def __init__(self, id: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("said",)
    SAID_FIELD_NUMBER: _ClassVar[int]
    said: str
    def __init__(self, said: _Optional[str] = ...) -> None: ...
