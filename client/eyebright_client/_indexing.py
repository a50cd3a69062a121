"""Indexing images: the operation behind ``index_images``.

Owns the pipeline. Images are read, embedded over one stream and written over another; while the embedder works on one
batch, the index writes the one before and the next is read. At most EMBEDDING + 1 batches are with the embedder and
WRITING + 1 with the index, whatever the length of the input. An image counts as indexed only when the index
acknowledged it. When a service fails, what it did not answer is sent again over a new stream; a record that was written
twice replaced itself.
Performs no I/O but reading the caller's input, as a Work step.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from eyebright_client import _messages
from eyebright_client._administration import check_fingerprint, create_collection
from eyebright_client._calls import Message, Operation, Service, work
from eyebright_client._exceptions import CallError, InvalidArgument, NotFound
from eyebright_client._images import Image, ImageItem, held_bytes, image_bytes
from eyebright_client._lanes import Lane, Patience
from eyebright_client._limits import IDS_PER_READ, MAX_MESSAGE_BYTES, REQUEST_BYTES
from eyebright_client._results import Collection, Failure, IndexReport, Model, Progress
from eyebright_client._session import Session
from eyebright_client._statuses import read_item_errors

EMBEDDING = 2
"""Batches the embedder holds while the next is read: one under work, one waiting."""

WRITING = 2
"""Batches the index holds while the next is embedded: one under work, one waiting."""

OnError = Literal["collect", "raise"]
ImageSource = Mapping[str, Image] | Iterable[ImageItem]


def index_images(
    session: Session,
    images: ImageSource,
    *,
    collection: str | None,
    captions: Mapping[str, str] | None,
    metadata: Mapping[str, Mapping[str, Any]] | None,
    source_uris: Mapping[str, str] | None,
    batch_size: int,
    progress: Callable[[Progress], object] | None,
    resume: bool,
    on_error: OnError,
) -> Operation[IndexReport]:
    """Behind ``index_images``."""
    if not (isinstance(batch_size, int) and batch_size >= 1):
        raise InvalidArgument(f"batch_size: expected at least 1, not {batch_size!r}", field="batch_size")
    if on_error not in ("collect", "raise"):
        raise InvalidArgument(f"on_error: expected 'collect' or 'raise', not {on_error!r}", field="on_error")
    session.require_embedder("index_images")
    began = time.perf_counter()
    model = yield from session.model()
    name = session.collection_name(collection)
    created = yield from _ensure_collection(session, name, model)
    items = _items(images, captions or {}, metadata or {}, source_uris or {})
    total = len(images) if isinstance(images, Sized) else None
    tally = _Tally(total, progress, raise_failures=on_error == "raise")
    pipeline = _Pipeline(session, name, model, items, min(batch_size, model.max_items), tally)
    yield from pipeline.run(skip_present=resume and not created)
    return IndexReport(
        tally.indexed,
        tally.skipped,
        tuple(sorted(tally.failures, key=lambda failure: failure.position)),
        time.perf_counter() - began,
    )


def _ensure_collection(session: Session, name: str, model: Model) -> Operation[bool]:
    """Whether the collection had to be made. Raises FingerprintMismatch when there is one of another model."""
    session.forget(name)
    try:
        existing: Collection = yield from session.collection(name)
    except NotFound:
        existing = yield from create_collection(
            session,
            name,
            shard_count=None,
            metric="cosine",
            dimension=model.dimension,
            fingerprint=model.fingerprint,
            exist_ok=True,
        )
        return True
    check_fingerprint(existing, model.fingerprint, request_id=session.request_id)
    return False


def _items(
    images: ImageSource,
    captions: Mapping[str, str],
    metadata: Mapping[str, Mapping[str, Any]],
    source_uris: Mapping[str, str],
) -> Iterator[ImageItem]:
    """The input as items; what an item does not say itself is looked up by its id."""
    given = (ImageItem(*pair) for pair in images.items()) if isinstance(images, Mapping) else iter(images)
    for item in given:
        if not isinstance(item, ImageItem):
            raise InvalidArgument(
                f"images: expected a mapping, or ImageItem, not {type(item).__name__}", field="images"
            )
        yield ImageItem(
            item.id,
            item.image,
            captions.get(item.id) if item.caption is None else item.caption,
            metadata.get(item.id) if item.metadata is None else item.metadata,
            source_uris.get(item.id) if item.source_uri is None else item.source_uri,
        )


@dataclass(slots=True)
class _Entry:
    """One image on its way: its record, then also its bytes."""

    position: int
    id: str
    record: Message
    image: Any
    data: bytes | None = None


class _Tally:
    """What became of every image so far, and who wants to know."""

    def __init__(
        self, total: int | None, progress: Callable[[Progress], object] | None, *, raise_failures: bool
    ) -> None:
        self._total = total
        self._progress = progress
        self._raise_failures = raise_failures
        self.indexed = 0
        self.skipped = 0
        self.failures: list[Failure] = []
        self._reported: Progress | None = None

    def fail(self, position: int, id_: str, error: CallError) -> None:
        """Note a failure, or raise it where that was asked."""
        error.position = position
        if self._raise_failures:
            raise error
        self.failures.append(Failure(position, id_, error))

    def report(self) -> None:
        """Call the progress callback, if there is something new."""
        now = Progress(self.indexed, self._total, len(self.failures), self.skipped)
        if self._progress is not None and now != self._reported:
            self._reported = now
            self._progress(now)


class _Pipeline:
    """From items to acknowledged records."""

    def __init__(
        self,
        session: Session,
        collection: str,
        model: Model,
        items: Iterator[ImageItem],
        batch_size: int,
        tally: _Tally,
    ) -> None:
        self._session = session
        self._collection = collection
        self._items = enumerate(items)
        self._batch_size = batch_size
        self._max_image_bytes = min(model.max_image_bytes, MAX_MESSAGE_BYTES - 2**20)
        self._tally = tally
        self._embed = Lane[list[_Entry]](session, Service.EMBEDDER, "EmbedStream")
        self._write = Lane[list[_Entry]](session, Service.INDEX, "UpsertStream")
        self._patience = Patience(session.timeouts.outage)
        self._batch_ids = count(1)
        self._waiting: deque[_Entry] = deque()
        self._open_ids: set[str] = set()
        self._page_size = batch_size
        self._exhausted = False

    def run(self, *, skip_present: bool) -> Operation[None]:
        """Take every item to its end."""
        while True:
            while len(self._waiting) < self._batch_size and not self._exhausted:
                yield from self._fill(skip_present)
            batch = yield from work(self._load_batch)
            if not batch and not self._waiting:
                break
            if batch:
                request = _messages.embed_stream_request(next(self._batch_ids), [entry.data or b"" for entry in batch])
                for entry in batch:
                    entry.data = entry.image = None
                yield from self._embed.send(request, batch)
            while len(self._embed.pending) > EMBEDDING:
                yield from self._receive_embedded()
        while self._embed.pending:
            yield from self._receive_embedded()
        while self._write.pending:
            yield from self._receive_written()
        yield from self._embed.finish()
        yield from self._write.finish()
        self._tally.report()

    def _fill(self, skip_present: bool) -> Operation[None]:
        """Read one page of items, leave out what the collection has, and let the rest wait."""
        page = yield from work(self._read_page)
        present: set[str] = set()
        if skip_present and page:
            ids = [entry.id for entry in page]
            present = yield from self._patience.insist(lambda: self._present(ids))
            # Where everything is there already, larger pages get past it sooner; where not, small ones start sooner.
            larger = min(2 * self._page_size, IDS_PER_READ)
            self._page_size = larger if len(present) == len(page) else self._batch_size
        for entry in page:
            if entry.id in present:
                self._tally.skipped += 1
                self._open_ids.discard(entry.id)
            else:
                self._waiting.append(entry)
        if present:
            self._tally.report()

    def _read_page(self) -> list[_Entry]:
        """The next items as entries, their images unread; fewer than a page when they hold much memory."""
        page: list[_Entry] = []
        held = 0
        while len(page) < self._page_size and held < REQUEST_BYTES:
            position, item = next(self._items, (None, None))
            if position is None or item is None:
                self._exhausted = True
                break
            try:
                record = _messages.record_message(position, item.id, item.caption, item.source_uri, item.metadata)
            except CallError as error:
                self._tally.fail(position, item.id, error)
                continue
            if record.id in self._open_ids:
                self._tally.fail(
                    position, record.id, InvalidArgument(f"id {record.id!r} stands twice in the input", field="id")
                )
                continue
            self._open_ids.add(record.id)
            page.append(_Entry(position, record.id, record, item.image))
            held += held_bytes(item.image)
        return page

    def _present(self, ids: list[str]) -> Operation[set[str]]:
        """Those of the ids that the collection has."""
        request = _messages.get_records_request(self._collection, ids, ())
        seconds = self._session.timeouts.read
        # How long an outage may last is for the patience of the whole run to say.
        response = yield from self._session.index("GetRecords", request, seconds, through_outages=False)
        return {id_ for id_, status in zip(ids, response.statuses, strict=True) if status.code == 0}

    def _load_batch(self) -> list[_Entry]:
        """Waiting entries, with their images read: as many as fit a request."""
        batch: list[_Entry] = []
        size_bytes = 0
        while self._waiting and len(batch) < self._batch_size:
            entry = self._waiting[0]
            if entry.data is None:
                try:
                    entry.data = image_bytes(entry.image, self._max_image_bytes)
                except CallError as error:
                    self._waiting.popleft()
                    self._fail(entry, error)
                    continue
            if batch and size_bytes + len(entry.data) > REQUEST_BYTES:
                break
            size_bytes += len(entry.data)
            batch.append(self._waiting.popleft())
        return batch

    def _fail(self, entry: _Entry, error: CallError) -> None:
        self._open_ids.discard(entry.id)
        self._tally.fail(entry.position, entry.id, error)

    def _fail_all(self, entries: list[_Entry], statuses: Sequence[Message]) -> list[_Entry]:
        """Note the failures among the entries; returns the others."""
        errors = read_item_errors(statuses, range(len(entries)), self._session.request_id)
        for row, error in errors.items():
            self._fail(entries[row], error)
        return [entry for row, entry in enumerate(entries) if row not in errors]

    def _receive_embedded(self) -> Operation[None]:
        """Take one embedded batch and hand its vectors to the index."""
        response, entries = yield from self._embed.receive()
        self._session.notice_fingerprint(response.images.vectors.fingerprint)
        records = [entry.record for entry in entries]
        request = _messages.upsert_embedded(next(self._batch_ids), self._collection, records, response.images)
        good = self._fail_all(entries, response.images.statuses)
        if request is None:
            self._tally.report()
            return
        yield from self._write.send(request, good)
        while len(self._write.pending) > WRITING:
            yield from self._receive_written()

    def _receive_written(self) -> Operation[None]:
        """Take one acknowledgement."""
        response, entries = yield from self._write.receive()
        written = self._fail_all(entries, response.statuses)
        self._tally.indexed += len(written)
        self._open_ids.difference_update(entry.id for entry in written)
        self._tally.report()
