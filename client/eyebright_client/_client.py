"""The blocking client.

Owns signatures and their documentation, and nothing of what the calls do: each method hands an operation to the
transport. ``AsyncClient`` has the same methods.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np

from eyebright_client import _administration, _embedding, _indexing, _records, _searching, _snapshots, _tuning
from eyebright_client import _results as results
from eyebright_client._calls import Operation, Service
from eyebright_client._connection import TLS
from eyebright_client._filters import Filter
from eyebright_client._images import Image
from eyebright_client._results import Embedding, Embeddings, IncludeField, Metric, Modality, Priority
from eyebright_client._session import ClientState, Session, tracing_by
from eyebright_client._timeouts import Timeouts
from eyebright_client._transport import Transport

if TYPE_CHECKING:
    from eyebright_client._tracing import TracerProvider

P = ParamSpec("P")
Answer = TypeVar("Answer")


class Client:
    """Indexes and finds images through an embedder service and an index service.

    ``embedder`` and ``index`` are ``host:port``; with ``embedder=None`` only vectors and record ids can be searched
    and written, and a caption or an image raises EmbedderNotConfigured. ``collection`` is the collection of calls
    that name none. ``tls`` encrypts both connections; ``token`` is sent as a bearer token with every call, in clear
    without ``tls``. ``tracer_provider`` is one of OpenTelemetry's: each method makes a span below the current one, and
    the services continue its trace; None traces nothing. Nothing is connected before the first call. Safe to share: by
    threads, or in the async client by tasks of one event loop.

    Every call has a deadline (``timeouts``), carries a request id that both services log, and raises a CallError when
    it is refused. Methods that take many items return the errors of single ones; the same methods given one item
    raise its error.
    """

    def __init__(
        self,
        embedder: str | None = "localhost:7001",
        index: str = "localhost:7002",
        *,
        collection: str = "images",
        tls: TLS | None = None,
        token: str | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (frozen)
        tracer_provider: "TracerProvider | None" = None,
    ) -> None:
        addresses = {Service.INDEX: index} | ({} if embedder is None else {Service.EMBEDDER: embedder})
        self._state = ClientState(embedder is not None, collection, timeouts)
        self._transport = Transport(addresses, tls, token)
        self._tracing = tracing_by(tracer_provider)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Later calls raise ClientClosed."""
        self._transport.close()

    def wait_until_ready(self, timeout_seconds: float = 60.0) -> None:
        """Wait until both services answer. Raises DeadlineExceeded when they don't in time."""
        self._run(_administration.wait_until_ready, timeout_seconds)

    def health(self, service: results.ServiceName = "embedder") -> results.ServingStatus:
        """What a service ("embedder" or "index") says of itself; "not_serving" while it starts, stops or is ill."""
        return self._run(_administration.health, service)

    def model(self) -> results.Model:
        """The checkpoint that the embedder serves; asked for once, then remembered."""
        return self._run(_embedding.get_model)

    def embed_texts(
        self, texts: str | Sequence[str], *, priority: Priority = "interactive", recompute: bool = False
    ) -> Embeddings:
        """Vectors of captions, in as many requests as the embedder's limits need.

        A caption that can't be embedded is in ``errors`` of the result; given one string, its error is raised. Where
        others wait too, "interactive" captions go before "bulk" ones. An overloaded embedder is asked again when it
        says so, as long as the timeout allows. ``recompute`` has captions go through the model that the embedder
        remembers, for checks and measurements.
        """
        return self._run(_embedding.embed_texts, texts, priority=priority, recompute=recompute)

    def embed_images(self, images: Image | Sequence[Image], *, priority: Priority = "interactive") -> Embeddings:
        """Vectors of images (paths, encoded bytes, or PIL images), in as many requests as the embedder's limits need.

        An image that can't be embedded is in ``errors`` of the result; given one image, its error is raised. See
        ``embed_texts`` for ``priority``.
        """
        return self._run(_embedding.embed_images, images, priority=priority)

    def embed_pixels(self, pixels: np.ndarray, *, priority: Priority = "interactive") -> Embeddings:
        """Vectors of pictures that are decoded already, in as many requests as the embedder's limits need.

        ``pixels`` is (n, size, size, 3) uint8, RGB, with ``model().image_size`` as size: turned upright, flattened on
        white, and squashed to the square with the checkpoint's resampling. Nothing checks that they were, and another
        way gives other vectors. Raises FailedPrecondition where the embedder does not take pixels
        (``model().accepts_pixels``; its setting is ``--accept-pixels``). See ``embed_texts`` for ``priority``.
        """
        return self._run(_embedding.embed_pixels, pixels, priority=priority)

    def create_collection(
        self,
        name: str | None = None,
        *,
        shard_count: int | None = None,
        metric: Metric = "cosine",
        dimension: int | None = None,
        fingerprint: str | None = None,
        exist_ok: bool = False,
    ) -> results.Collection:
        """Make a collection; dimension and fingerprint default to the embedder's.

        Raises AlreadyExists when the name is in use. With ``exist_ok`` the existing collection is returned if it is
        what was asked for; else FingerprintMismatch or AlreadyExists says in what it differs.
        """
        return self._run(
            _administration.create_collection,
            name,
            shard_count=shard_count,
            metric=metric,
            dimension=dimension,
            fingerprint=fingerprint,
            exist_ok=exist_ok,
        )

    def get_collection(self, name: str | None = None) -> results.Collection:
        """Describe a collection. Raises NotFound."""
        return self._run(_administration.get_collection, name)

    def list_collections(self) -> tuple[results.Collection, ...]:
        """All collections, by name."""
        return self._run(_administration.list_collections)

    def set_index(
        self, recipe: results.Recipe = "auto", *, centred: bool = False, name: str | None = None
    ) -> results.Collection:
        """Choose how a collection is indexed, in place of what was chosen before; "auto" leaves it to the service.

        ``centred`` subtracts the mean first, for "fastscan", "ivf-fastscan" and "ivf-flat"; scores do not change.
        Segments are rebuilt in the background, and searched as they were until then. ``optimize`` finds what is
        fastest.
        """
        return self._run(_administration.set_index, name, recipe=recipe, centred=centred)

    def delete_collection(self, name: str | None = None) -> None:
        """Delete a collection with all its records, for good. Raises NotFound."""
        self._run(_administration.delete_collection, name)

    def index_images(
        self,
        images: _indexing.ImageSource,
        *,
        collection: str | None = None,
        captions: Mapping[str, str] | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        source_uris: Mapping[str, str] | None = None,
        batch_size: int = 64,
        progress: Callable[[results.Progress], object] | None = None,
        resume: bool = True,
        on_error: _indexing.OnError = "collect",
    ) -> results.IndexReport:
        """Embed images and write them to a collection, which is made if it is missing.

        ``images`` maps ids to images, or yields ImageItem; it may be a generator of any length, for only a few
        batches are held at a time, and files are read when their turn comes. Iterables are read one item after
        another, by the async client in worker threads. ``captions``, ``metadata`` and ``source_uris`` map ids to what
        is stored beside the vector. ``batch_size`` is cut to the embedder's limit.

        With ``resume`` ids that the collection has are skipped, so that an interrupted run can be repeated; without
        it they are replaced. Of equal ids close together the second fails; further apart the same rule holds as for
        ids that were there. Services that fail are tried again for ``timeouts.outage`` seconds; only what was not
        acknowledged is sent again.

        ``progress`` is called after every batch. An exception in it, or Ctrl-C, ends the call; all that was
        acknowledged stays. Images that can't be read, embedded, or written are in ``failed`` of the report, or raised
        when ``on_error`` is "raise". Raises FingerprintMismatch when the collection is of another model.
        """
        return self._run(
            _indexing.index_images,
            images,
            collection=collection,
            captions=captions,
            metadata=metadata,
            source_uris=source_uris,
            batch_size=batch_size,
            progress=progress,
            resume=resume,
            on_error=on_error,
        )

    def upsert(
        self,
        ids: str | Sequence[str],
        vectors: np.ndarray | Sequence[Sequence[float]] | Embedding | Embeddings,
        *,
        captions: str | Sequence[str | None] | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
        source_uris: str | Sequence[str | None] | None = None,
        collection: str | None = None,
        fingerprint: str | None = None,
    ) -> results.WriteReport:
        """Write vectors of your own, (n, dimension), under ids; a record whose id exists is replaced whole.

        ``captions``, ``metadata`` and ``source_uris`` hold one entry per id. ``fingerprint`` says which space the
        vectors lie in; it defaults to what Embeddings say, else to the collection's. Records that are refused are in
        ``failed``; given one id, with one vector and single values, the error is raised.
        """
        return self._run(
            _records.upsert,
            ids,
            vectors,
            captions=captions,
            metadata=metadata,
            source_uris=source_uris,
            collection=collection,
            fingerprint=fingerprint,
        )

    def upsert_records(
        self,
        records: Iterable[results.Record],
        *,
        collection: str | None = None,
        fingerprint: str | None = None,
    ) -> results.WriteReport:
        """Write records with their vectors, for example those that another collection listed. See ``upsert``."""
        return self._run(_records.upsert_records, records, collection=collection, fingerprint=fingerprint)

    def search(
        self,
        text: str | None = None,
        *,
        image: Image | None = None,
        vector: np.ndarray | Sequence[float] | Embedding | None = None,
        like: str | None = None,
        k: int = 10,
        collection: str | None = None,
        filter: Filter | None = None,  # noqa: A002
        offset: int = 0,
        min_score: float | None = None,
        exact: bool = False,
        target_recall: float | None = None,
        include: Collection[IncludeField] | None = None,
        modality: Modality | None = None,
        timeout: float | None = None,
    ) -> results.SearchResult:
        """The k records nearest to a caption, an image, a vector, or a record of the collection (``like`` its id).

        Give exactly one of the four. ``k`` is 1 to 100,000. Only records that a ``filter`` lets through are found
        (``F("group") == "food"``, see F), always min(k, matching) of them. ``offset`` leaves out that many of the best;
        ``min_score`` is in the unit of the collection's metric. ``exact`` compares every record, where a large
        collection would otherwise be searched by codes. ``target_recall``, above 0 to 1, is the share of the exact hits
        to aim at in this call, instead of what the collection was tuned to.

        ``include`` names what hits carry besides id and score ("caption", "source_uri", "metadata", "vector"); all but
        the vector by default, nothing when k passes 1,000, where asking for more is refused. ``modality`` says what a
        plain vector was made of: "text" or "image" (default). ``timeout`` is for the whole call, in seconds. Hits get a
        probability when a caption, or its vector, is searched under the cosine metric with the embedder that filled the
        collection.
        """
        return self._run(
            _searching.search,
            text,
            image=image,
            vector=vector,
            like=like,
            k=k,
            collection=collection,
            filter=filter,
            offset=offset,
            min_score=min_score,
            exact=exact,
            target_recall=target_recall,
            include=include,
            modality=modality,
            timeout=timeout,
        )

    def search_many(
        self,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[Image] | None = None,
        vectors: np.ndarray | Sequence[Sequence[float]] | Embeddings | None = None,
        likes: Sequence[str] | None = None,
        k: int = 10,
        collection: str | None = None,
        filter: Filter | None = None,  # noqa: A002
        offset: int = 0,
        min_score: float | None = None,
        exact: bool = False,
        target_recall: float | None = None,
        include: Collection[IncludeField] | None = None,
        modality: Modality | None = None,
        timeout: float | None = None,
    ) -> tuple[results.SearchResult, ...]:
        """One result per query, in order, in as few requests as the limits allow. See ``search``.

        A query that can't be answered has its ``error`` set and no hits; the others are answered. ``timeout`` is for
        each request, in seconds.
        """
        return self._run(
            _searching.search_many,
            texts=texts,
            images=images,
            vectors=vectors,
            likes=likes,
            k=k,
            collection=collection,
            filter=filter,
            offset=offset,
            min_score=min_score,
            exact=exact,
            target_recall=target_recall,
            include=include,
            modality=modality,
            timeout=timeout,
        )

    def delete(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        filter: Filter | None = None,  # noqa: A002
        collection: str | None = None,
    ) -> int:
        """Delete records by id, or those that a filter lets through; returns how many there were. An id that does not
        exist is no error.

        Raises InvalidArgument for an id that can't be one, after the others are deleted. What a filter deletes goes
        batch by batch: after an error some are gone, and the same call deletes the rest.
        """
        return self._run(_records.delete, ids, filter=filter, collection=collection)

    def get(
        self,
        id: str,  # noqa: A002
        *,
        collection: str | None = None,
        include: Collection[IncludeField] = _searching.DEFAULT_INCLUDE,
    ) -> results.Record:
        """One record. Raises NotFound."""
        return self._run(_records.get, id, collection=collection, include=include)

    def get_many(
        self,
        ids: Iterable[str],
        *,
        collection: str | None = None,
        include: Collection[IncludeField] = _searching.DEFAULT_INCLUDE,
    ) -> tuple[results.Record | None, ...]:
        """Records in the order of the ids; None where there is no such record."""
        return self._run(_records.get_many, ids, collection=collection, include=include)

    def list(
        self,
        *,
        collection: str | None = None,
        filter: Filter | None = None,  # noqa: A002
        include: Collection[IncludeField] = _searching.DEFAULT_INCLUDE,
        page_size: int = 100,
    ) -> Iterator[results.Record]:
        """All records in the order of the bytes of their ids, read in pages of ``page_size`` (1 to 1,000) as they are
        consumed; only those that a ``filter`` lets through.

        Records written or deleted meanwhile may or may not appear; all others appear once.
        """
        token = ""
        while True:
            page = self._run(
                _records.list_page, token, page_size=page_size, collection=collection, filter=filter, include=include
            )
            yield from page.records
            token = page.next_page_token
            if not token:
                return

    def count(self, *, collection: str | None = None) -> int:
        """Number of records that can be found now."""
        return self._run(_administration.count, collection)

    def update(
        self,
        id: str,  # noqa: A002
        *,
        caption: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        source_uri: str | None = None,
        collection: str | None = None,
    ) -> None:
        """Change what is stored beside a vector. None leaves a part as it is, an empty value removes it. Raises
        NotFound.
        """
        self._run(_records.update, id, caption=caption, metadata=metadata, source_uri=source_uri, collection=collection)

    def stats(self, *, collection: str | None = None) -> results.CollectionStats:
        """How large a collection is and where it lies."""
        return self._run(_administration.stats, collection)

    def optimize(
        self,
        *,
        target_recall: float = 0.99,
        k: int = 10,
        memory_limit_bytes: int | None = None,
        queries: _tuning.TuningQueries | None = None,
        recipes: Sequence[results.Recipe] = (),
        collection: str | None = None,
        progress: Callable[[results.TuningProgress], object] | None = None,
    ) -> results.Tuning:
        """Find the fastest index that finds this share of the exact k nearest, and search with it from then on.

        Measured with the recent queries that the server keeps of the collection, or with ``queries``: vectors of
        captions (n, dimension), Embeddings, or a mapping from "text" or "image" to either; at least 200. The index
        takes at most ``memory_limit_bytes`` beside the vectors. ``recipes`` names those to measure beside "exact". For
        a collection whose owner chose a recipe its effort is tuned. Reads and writes go on meanwhile; it takes minutes
        for a million vectors.

        ``progress`` is called a few times a second; an exception in it, or Ctrl-C, ends the call, and the work with it:
        before the phase "rebuilding" nothing has changed then. A server that restarts meanwhile begins again by itself,
        and is waited for up to ``timeouts.outage`` seconds. Raises FailedPrecondition while the collection is tuned for
        another request.
        """
        return self._run(
            _tuning.optimize,
            target_recall=target_recall,
            k=k,
            memory_limit_bytes=memory_limit_bytes,
            queries=queries,
            recipes=recipes,
            collection=collection,
            progress=progress,
        )

    def tuning(self, *, collection: str | None = None) -> results.TuningStatus:
        """What ``optimize`` found last, and how far the one under way is."""
        return self._run(_tuning.tuning, collection)

    def create_snapshot(
        self,
        url: str,
        *,
        collection: str | None = None,
        progress: Callable[[results.SnapshotProgress], object] | None = None,
    ) -> results.Snapshot:
        """Copy a collection to a folder or URL that the server can reach, while reads and writes go on.

        It holds everything that was acknowledged before the call. ``progress`` is called a few times a second; an
        exception in it, or Ctrl-C, ends the call, and the server removes what it has written. There is no limit on the
        whole time; the server must say something every ``timeouts.read`` seconds. Raises AlreadyExists when there is a
        snapshot at the URL, FailedPrecondition when the server's settings don't allow the URL.
        """
        return self._run(_snapshots.create_snapshot, url, collection=collection, progress=progress)

    def restore_snapshot(
        self,
        url: str,
        *,
        collection: str | None = None,
        expected_fingerprint: str | None = None,
        progress: Callable[[results.SnapshotProgress], object] | None = None,
    ) -> results.Collection:
        """Make a collection from a snapshot; ``collection`` None means the name it was made of, not the client's own.

        With ``expected_fingerprint`` a snapshot of another vector space is refused. ``progress`` and time are as in
        ``create_snapshot``. Raises AlreadyExists when there is a collection of that name, NotFound when there is no
        snapshot, FingerprintMismatch, or FailedPrecondition when the snapshot is damaged.
        """
        return self._run(
            _snapshots.restore_snapshot,
            url,
            collection=collection,
            expected_fingerprint=expected_fingerprint,
            progress=progress,
        )

    def _run(
        self,
        operation: Callable[Concatenate[Session, P], Operation[Answer]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Answer:
        steps = operation(Session(self._state), *args, **kwargs)
        if self._tracing is not None:
            steps = self._tracing.traced(operation.__name__, steps)
        return self._transport.run(steps)
