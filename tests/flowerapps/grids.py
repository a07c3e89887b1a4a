"""A Grid in this process, whose nodes can go, be silent, and say what they should not."""

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RAISED = 2


class PlainGrid(Grid):
    """Has a ClientApp answer messages one after another, as if each came over a network.

    Attributes:
        contexts: Node to its context.
        gone: Nodes that are away.
        silent: Nodes that get messages and answer none.
        sent: All messages.
        change: Is given each reply, and returns what comes in its place.
    """

    def __init__(self, app, nodes, *, config=None, shares=None):
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.app, self.gone, self.silent, self.sent = app, set(), set(), []
        self.change = lambda reply: reply
        self.contexts = {
            100 + place: Context(
                run_id=1,
                node_id=100 + place,
                node_config={"partition-id": partition, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(config or {}),
            )
            for place, partition in enumerate(shares or range(nodes))
        }
        self._replies = {}

    def set_run(self, run):
        """Do nothing."""

    @property
    def run(self):
        """The run."""
        return Run.create_empty(1)

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        """Make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self):
        """Return who is there."""
        return [node for node in self.contexts if node not in self.gone]

    def push_messages(self, messages):
        """Have messages answered."""
        numbers = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.sent.append(message)
            number = f"{len(self.sent)}"
            vars(message.metadata)["_message_id"] = number
            numbers.append(number)
            if node not in self.gone | self.silent:
                self._replies[number] = self._reply(message, self.contexts[node])
        return numbers

    def pull_messages(self, message_ids):
        """Return the replies that are there."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages, *, timeout=None):
        """Have messages answered, the last one first: they come in any order."""
        return list(reversed(self.pull_messages(self.push_messages(list(messages)))))

    def _reply(self, message, context):
        try:
            return self.change(self.app(message, context))
        except Exception as error:  # noqa: BLE001 - as a SuperNode does
            return Message(Error(RAISED, f"{type(error).__name__}: {error}"), reply_to=message)
