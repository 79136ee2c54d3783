"""One device with what is in its memory and what waits for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from quiltwork.serving.policy.admission import InUse
from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.placement import Resident, evictions
from quiltwork.serving.policy.queueing import Instance, queue_seconds
from quiltwork.serving.simulate.request import Running
from quiltwork.serving.simulate.world import Device, Piece


class Agent:
    """Memory, queue and books of one device. Decides nothing."""

    def __init__(self, device: Device, reserve_share: float, step_rows: int) -> None:
        self.name, self.server = device.agent, device.server
        self.capacity = device.memory_bytes * (1 - reserve_share)
        self.resident: dict[Instance, Piece] = {}
        self.ready_at: dict[Instance, float] = {}
        """Of what is being loaded."""
        self.draining: set[Instance] = set()
        self.users: defaultdict[Instance, int] = defaultdict(int)
        """Requests that run through a segment here."""
        self.held: dict[int, float] = {}
        """Bytes of keys and values by request."""
        self.promised: dict[int, float] = {}
        """Bytes that requests on their way here will need."""
        self.waiting: dict[int, Running] = {}
        self.busy = False
        self.began = -1.0
        """When its last step did."""
        self.letters: list[Callable[[], None]] = []
        """What has come in the middle of a step and is read after it."""
        self.due = False
        """A step is to begin at this moment."""
        self.used = False
        self.version = 0
        """Changes with what is ready here."""
        self.load_free_at = 0.0
        self.weight_bytes = self.kv_bytes = self.promised_bytes = 0.0
        self.busy_s = self.useful_s = 0.0
        self.batches = self.rows_run = self.steps = self.pieces = 0
        self.work_of: defaultdict[Instance, float] = defaultdict(float)
        """Seconds of well-filled batches that were asked for since the last look at the replicas."""
        self.waits: defaultdict[Instance, list[float]] = defaultdict(list)
        self._rows: dict[Instance, int] = {}
        self._contexts: defaultdict[Instance, int] = defaultdict(int)
        self.profiles: dict[Instance, SegmentProfile] = {}
        """Of what is or was here."""
        self._step_rows = step_rows
        self._known_queue_s: float | None = 0.0

    @property
    def free(self) -> float:
        """Bytes that nothing is in."""
        return self.capacity - self.weight_bytes - self.kv_bytes

    @property
    def queue_s(self) -> float:
        """Seconds that one round of everything here takes: waiting prompts in full, a row for each that decodes."""
        if self._known_queue_s is None:
            self._known_queue_s = queue_seconds(self._rows, self.profiles, self._step_rows, self._contexts)
        return self._known_queue_s

    def queue_s_for(self, seq: Running) -> float:
        """The same for a request that is counted here: its own rows and context do not wait for themselves."""
        own = Counter(
            piece.instance for piece, owner in zip(seq.app.route, seq.owners, strict=True) if owner == self.name
        )
        rows = {i: self._rows[i] for i in own}
        contexts = {i: self._contexts[i] for i in own}
        others = {i: rows[i] - n * seq.weight for i, n in own.items()}
        theirs = {i: contexts[i] - n * seq.context for i, n in own.items()}
        mine = queue_seconds(rows, self.profiles, self._step_rows, contexts)
        mine -= queue_seconds(others, self.profiles, self._step_rows, theirs)
        return max(self.queue_s - mine, 0.0)

    @property
    def left_over(self) -> list[Running]:
        """What waited when the last step began and did not ride in it: all that a sign of life tells of a queue."""
        return [seq for seq in self.waiting.values() if seq.work is not None and seq.work.since <= self.began]

    @property
    def sequences(self) -> int:
        """Requests that have pages here, or are on their way to them."""
        return len(self.held.keys() | self.promised.keys())

    def use(self) -> dict[Instance, InUse]:
        """What decodes at each segment here."""
        return {
            i: InUse(self.profiles[i], n, self._contexts[i], max(self._rows.get(i, 0) - n, 0))
            for i, n in self.users.items()
            if n
        }

    def has(self, piece: Piece) -> bool:
        """Whether a segment is here (or being loaded) and takes requests."""
        return piece.instance in self.resident and piece.instance not in self.draining

    def put(self, piece: Piece, ready_at: float | None = None) -> None:
        """A segment's weights take their place."""
        self.resident[piece.instance] = piece
        self.profiles[piece.instance] = piece.profile
        self.draining.discard(piece.instance)
        self.weight_bytes += piece.profile.weight_bytes
        self.used = True
        self.version += 1
        if ready_at is not None:
            self.ready_at[piece.instance] = ready_at

    def ready(self, instance: Instance) -> None:
        """A segment's weights have arrived."""
        self.ready_at.pop(instance, None)
        self.version += 1

    def drain(self, instance: Instance) -> None:
        """A segment takes no new requests, and goes with its last one."""
        self.draining.add(instance)
        self.version += 1
        if not self.users[instance]:
            self.drop(instance)

    def drop(self, instance: Instance) -> None:
        """A segment's weights give it back."""
        piece = self.resident.pop(instance)
        self.ready_at.pop(instance, None)
        self.draining.discard(instance)
        self.version += 1
        self.weight_bytes -= piece.profile.weight_bytes

    def count(self, instance: Instance, rows: int, context: int = 0) -> None:
        """Change the rows that wait for a segment, and the tokens that decoding rows attend over."""
        self._rows[instance] = self._rows.get(instance, 0) + rows
        self._contexts[instance] += context
        self._known_queue_s = None

    def hold(self, id: int, nbytes: float) -> None:
        """Give a request pages."""
        self.held[id] = self.held.get(id, 0.0) + nbytes
        self.kv_bytes += nbytes

    def release(self, id: int, nbytes: float) -> None:
        """Take pages back; segments without attention have none."""
        if not nbytes:
            return
        left = self.held[id] - nbytes
        if left <= 0:
            del self.held[id]
        else:
            self.held[id] = left
        self.kv_bytes -= nbytes

    def promise(self, id: int, nbytes: float) -> None:
        """Set aside for a request on its way; 0 ends it."""
        self.promised_bytes += nbytes - self.promised.pop(id, 0.0)
        if nbytes:
            self.promised[id] = nbytes

    def droppable(self, need: float, rates: dict[Instance, float]) -> tuple[Instance, ...] | None:
        """What to drop for ``need`` more bytes; nothing where they are there, None where they cannot be had."""
        short = need - (self.free - self.promised_bytes)
        if short <= 0:
            return ()
        residents = [
            Resident(i, p.profile.weight_bytes, rates.get(i, 0.0), p.profile.load_s) for i, p in self.resident.items()
        ]
        return evictions(residents, short, [i for i in self.resident if self.users[i] or i in self.ready_at])
