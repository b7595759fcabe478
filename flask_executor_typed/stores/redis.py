"""A store in Redis, for the processes of any number of machines.

Each operation that must be atomic is one script, which Redis runs without interruption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib import import_module
from itertools import islice
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlencode
from weakref import WeakSet

from ..errors import StoreError, UnstorableError
from ..futures import OnDuplicate
from ..runtime.forks import in_child
from .protocol import Burial, Hazard, Hears, Listener, Owner, Pulse, Query, matches
from .records import COLUMNS, EXPIRED, LOST, NOT_IN_TIME, Row

__all__ = ("RedisStore",)

_TIMEOUT = 1.0  # seconds to wait for a connection, and for an answer
_CONNECTIONS = 2  # per process, not counting the listener's; managed servers limit them
_KEEPALIVE = 30.0  # seconds without a message after which the listener's connection is tested
_TOMBSTONE = 86400  # seconds that a dead process is remembered
_CARRIED = 4096  # bytes of a record that is sent to all that wait for any
_PAGE = 500  # records read at once when a list is filtered in Python

_READ = tuple(name for name in COLUMNS if name != "result")
_LISTED = tuple(name for name in _READ if name != "log_tail")
_INTEGERS = range(-(2**63), 2**63)

# -- scripts ---------------------------------------------------------------------------------------

# A full Redis refuses commands that may add data, but not those that remove data. It decides when a
# script begins. So each script begins with a command that adds data, or only removes data: if it is
# refused, that happens before it has changed anything.
#
# All keys share a hash tag, so they are in one slot of a cluster. 1 is the major version.
#
#   job:<id>           hash of a record's columns that are not None, and its seq
#   pieces:<id>        hash of the pieces of a response
#   all:<space>        sorted set of the ids of listed records, by seq
#   user:<space>NUL<user>  the same for one user
#   done:<space>       sorted set of the ids of listed finished records, by the time
#   sizes:<space>      hash of the sizes of the results that a purge may remove, by id
#   expires:<space>    sorted set of the ids of jobs that wait in an engine, by the time
#   keys:<space>       hash of the ids of jobs, by their key
#   untold:<space>     set of the ids of lost jobs that no process has announced
#   open:<owner>       set of the ids of a process's unfinished records
#   cancel:<owner>     set of those of them that are to be cancelled
#   holders            set of the owners that have unfinished records
#   owners, beats      hashes by owner; dead: sorted set of buried owners, by the time
#   events:<space>     the channel of the ids of records that have changed in any other way; a
#                      small one that is finished follows as JSON, so that it need not be read
#   starts:<space>     the channel of the ids of those that a worker has taken
#   asks:<owner>       the channel of a process that is to cancel a job; an empty message wakes it
_PREFIX = "{fet1}:"

_RIGHTS = (
    f"~{_PREFIX}* &{_PREFIX}* +@read +@write +@scripting +@pubsub +@transaction +@connection "
    "-@dangerous +info"
)
"""What a user of Redis must be allowed to do, as in the documentation. INFO is for hazards()."""

_GUARDS = (
    *("owner", "finished", "step", "version", "space", "user", "key", "listed", "status"),
    *("retries", "result_size", "expires", "attempts", "held", "cancel", "seq", "submitted"),
)

_PRELUDE = (
    f"local P = '{_PREFIX}'\n"
    f"local GUARDS = {{{', '.join(map(repr, _GUARDS))}}}\n"
    f"local READ = {{{', '.join(map(repr, _READ))}}}\n"
    f"local COLUMNS = {{{', '.join(map(repr, COLUMNS))}}}\n"
    f"local CARRIED = {_CARRIED}\n"
    """
local call = redis.call

local function known(id)  -- the columns that decide, or nil
  local values = call('HMGET', P .. 'job:' .. id, unpack(GUARDS))
  local row = {id = id}
  for i, name in ipairs(GUARDS) do row[name] = values[i] or nil end
  return row.version and row
end

local function read(id)  -- all columns but the result
  return call('HMGET', P .. 'job:' .. id, unpack(READ))
end

local function given(first)  -- the row in the arguments: its id, then names and values
  local row = {id = ARGV[first]}
  for i = first + 1, #ARGV, 2 do row[ARGV[i]] = ARGV[i + 1] end
  return row
end

local function keep(row)
  local flat = {}
  for name, value in pairs(row) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  call('HSET', P .. 'job:' .. row.id, unpack(flat))
end

local function change(row, changes, channel)  -- false removes
  local key, set, removed = P .. 'job:' .. row.id, {'version', row.version + 1}, {}
  row.version = set[2]
  for name, value in pairs(changes) do
    if value then
      set[#set + 1] = name
      set[#set + 1] = value
    else
      removed[#removed + 1] = name
    end
    row[name] = value or nil
  end
  call('HSET', key, unpack(set))
  if #removed > 0 then call('HDEL', key, unpack(removed)) end
  call('PUBLISH', P .. (channel or 'events:') .. row.space, row.id)
end

local function open(row)
  if row.owner then
    call('SADD', P .. 'open:' .. row.owner, row.id)
    call('SADD', P .. 'holders', row.owner)
  elseif row.expires then
    call('ZADD', P .. 'expires:' .. row.space, row.expires, row.id)
  end
end

local function leave(row)  -- take it from its owner, or from the engine
  if row.owner then
    call('SREM', P .. 'open:' .. row.owner, row.id)
    call('SREM', P .. 'cancel:' .. row.owner, row.id)
    if call('EXISTS', P .. 'open:' .. row.owner) == 0 then
      call('SREM', P .. 'holders', row.owner)
    end
  else
    call('ZREM', P .. 'expires:' .. row.space, row.id)
  end
end

local function finish(row, ttl)
  leave(row)
  if row.listed ~= '1' then
    -- Its reader withdraws it, unless that process has ended.
    call('EXPIRE', P .. 'job:' .. row.id, 2 * ttl)
    return
  end
  call('ZADD', P .. 'done:' .. row.space, row.finished, row.id)
  if tonumber(row.result_size) > 0 then
    call('HSET', P .. 'sizes:' .. row.space, row.id, row.result_size)
  end
  -- A purge removes them earlier, as long as any process is alive.
  call('EXPIRE', P .. 'job:' .. row.id, 2 * ttl)
  call('EXPIRE', P .. 'pieces:' .. row.id, 2 * ttl)
end

local function has_key(space, key)  -- the record that has it, or nil
  local id = call('HGET', P .. 'keys:' .. space, key)
  return id and known(id) or nil
end

local function release(space, key, id)
  if call('HGET', P .. 'keys:' .. space, key) == id then
    call('HDEL', P .. 'keys:' .. space, key)
  end
end

local function remove(space, id)
  local row = known(id)
  if row and row.key then release(space, row.key, id) end
  if row and row.user then call('ZREM', P .. 'user:' .. space .. '\\0' .. row.user, id) end
  if row then leave(row) end
  call('UNLINK', P .. 'job:' .. id, P .. 'pieces:' .. id)
  call('HDEL', P .. 'sizes:' .. space, id)
  call('ZREM', P .. 'all:' .. space, id)
  call('ZREM', P .. 'done:' .. space, id)
  call('SREM', P .. 'untold:' .. space, id)
end

local function insert(row, ttl)
  row.seq = call('INCR', P .. 'seq')
  row.version = '1'
  keep(row)
  if row.listed == '1' then
    call('ZADD', P .. 'all:' .. row.space, row.seq, row.id)
    if row.user then
      call('ZADD', P .. 'user:' .. row.space .. '\\0' .. row.user, row.seq, row.id)
    end
  end
  if row.finished then finish(row, ttl) else open(row) end
end

local function insert_with_key(row, ttl)  -- if the key is free
  if row.key and not has_key(row.space, row.key) then
    call('HSET', P .. 'keys:' .. row.space, row.key, row.id)
  end
  insert(row, ttl)
end

local function update(old, row)  -- the record is replaced by the row, but for what the store keeps
  for _, name in ipairs({'seq', 'key', 'submitted'}) do row[name] = old[name] end
  row.cancel = math.max(tonumber(old.cancel), tonumber(row.cancel))
  row.version = old.version + 1
  keep(row)
  local none = {}
  for _, name in ipairs(COLUMNS) do
    if not row[name] then none[#none + 1] = name end
  end
  if #none > 0 then call('HDEL', P .. 'job:' .. row.id, unpack(none)) end
  local message, size = row.id, 0
  for _, value in pairs(row) do size = size + #tostring(value) end
  if row.finished and size <= CARRIED then
    message = message .. '\\n' .. cjson.encode(row)
  end
  call('PUBLISH', P .. 'events:' .. row.space, message)
end

local function bury(row, reason, lost, now, ttl, burial)
  if tonumber(row.retries) > 0 then
    local before = {id = row.id, space = row.space, owner = row.owner}
    change(row, {owner = false, server = '', status = 'pending', started = false,
                 retries = row.retries - 1, attempts = row.attempts + 1})
    leave(before)
    open(row)
    table.insert(burial[2], row.id)
  else
    change(row, {status = 'lost', finished = now, error_type = lost, error_message = reason})
    finish(row, ttl)
    call('SADD', P .. 'untold:' .. row.space, row.id)
    table.insert(burial[1], row.id)
  end
end

local function expire(row, now, error, message, ttl)
  local waits = row.status == 'pending' and not row.owner
  if not waits or not row.expires or tonumber(row.expires) > tonumber(now) then return false end
  change(row, {status = 'failed', finished = now, error_type = error, error_message = message})
  finish(row, ttl)
  return true
end
"""
)


class _Script:
    """A Lua script. Once Redis knows it, only its hash is sent."""

    def __init__(self, body: str) -> None:
        self.text = f"{_PRELUDE}\n{body}"
        self.hash = hashlib.sha1(self.text.encode()).hexdigest()  # noqa: S324  # Redis's choice


_REGISTER = _Script("""
if call('ZSCORE', P .. 'dead', ARGV[1]) then return end
if call('HSETNX', P .. 'owners', ARGV[1], ARGV[2]) == 1 then
  call('HSET', P .. 'beats', ARGV[1], 0)
end
""")

_BEAT = _Script("""
if call('HEXISTS', P .. 'owners', ARGV[1]) == 1 then
  call('HINCRBY', P .. 'beats', ARGV[1], 1)
  return 'ok'
end
return call('ZSCORE', P .. 'dead', ARGV[1]) and 'dead' or 'gone'
""")

_RETIRE = _Script("""
if call('EXISTS', P .. 'open:' .. ARGV[1]) == 1 then return 0 end
call('HDEL', P .. 'beats', ARGV[1])
return call('HDEL', P .. 'owners', ARGV[1])
""")

_BURY = _Script("""
local owner, reason, lost, now, ttl, tombstone = unpack(ARGV)
call('ZADD', P .. 'dead', now, owner)
call('HDEL', P .. 'owners', owner)
call('HDEL', P .. 'beats', owner)
call('ZREMRANGEBYSCORE', P .. 'dead', '-inf', now - tombstone)
local burial = {{}, {}}
for _, id in ipairs(call('SMEMBERS', P .. 'open:' .. owner)) do
  local row = known(id)
  if row then
    bury(row, reason, lost, now, ttl, burial)
  else  -- it was evicted, or removed by hand
    call('SREM', P .. 'open:' .. owner, id)
  end
end
return burial
""")

_LOSE = _Script("""
local id, owner, reason, lost, now, ttl = unpack(ARGV)
local row, burial = known(id), {{}, {}}
if row and row.owner == owner and not row.finished then
  bury(row, reason, lost, now, ttl, burial)
end
return burial
""")

_TELL = _Script("""
local space = call('HGET', P .. 'job:' .. ARGV[1], 'space')
return space and call('SREM', P .. 'untold:' .. space, ARGV[1]) or 0
""")

_WRITE = _Script("""
local ttl, row = ARGV[1], given(2)
local old = known(row.id)
if not old then
  insert_with_key(row, ttl)
  return 1
end
local is_late = tonumber(old.step) >= tonumber(row.step)
if old.finished or old.owner ~= row.owner or is_late then return 0 end
update(old, row)
if row.finished then finish(row, ttl) end
return 1
""")

_ENQUEUE = _Script("""
local ttl, owner, row = ARGV[1], ARGV[2], given(3)
local old = known(row.id)
if not old then
  insert_with_key(row, ttl)
  return 1
end
if old.owner ~= owner or old.status ~= 'pending' then return 0 end
update(old, row)
leave(old)
open(row)
return 1
""")

_CLAIM = _Script("""
local ttl, on_duplicate, row = ARGV[1], ARGV[2], given(3)
local kept = has_key(row.space, row.key)
if kept and kept.id ~= row.id then
  local is_over = kept.finished or kept.held == '1'
  if on_duplicate == 'error' or (on_duplicate == 'join' and not is_over) then
    return read(kept.id)
  end
end
call('HSET', P .. 'keys:' .. row.space, row.key, row.id)
local old = known(row.id)
if not old then
  insert(row, ttl)
elseif old.key ~= row.key then
  change(old, {key = row.key})
end
return false
""")

_RELEASE = _Script("release(unpack(ARGV))")

_WITHDRAW = _Script("""
local row = known(ARGV[1])
if not row then return 0 end
local waits = not row.owner and row.status == 'pending'
if not waits and (row.listed == '1' or not row.finished) then return 0 end
remove(row.space, row.id)
return 1
""")

_ADD_PIECE = _Script("""
local id, owner, number, data = unpack(ARGV)
local row = known(id)
if not row or row.owner ~= owner or row.finished then return 0 end
call('HSET', P .. 'pieces:' .. id, number, data)
return 1
""")

_TAKE = _Script("""
local id, attempt, owner, server, now, expired, message, ttl = unpack(ARGV)
local row = known(id)
if not row or row.owner or row.status ~= 'pending' then return end
if expire(row, now, expired, message, ttl) or row.attempts ~= attempt then return end
local changes = {owner = owner, server = server, status = 'running', started = now}
change(row, changes, 'starts:')
leave({id = id, space = row.space})
open(row)
return read(id)
""")

_EXPIRE = _Script("""
local space, now, error, message, ttl = unpack(ARGV)
local ended = {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'expires:' .. space, '-inf', now)) do
  local row = known(id)
  if not row then  -- it was evicted, or removed by hand
    call('ZREM', P .. 'expires:' .. space, id)
  elseif expire(row, now, error, message, ttl) then
    ended[#ended + 1] = id
  end
end
return ended
""")

_ASK_TO_CANCEL = _Script("""
local id, now, asked, ttl = unpack(ARGV)
local row = known(id)
if not row then return false end
if not row.finished then
  local cancel = math.max(tonumber(row.cancel), tonumber(asked))
  if row.owner then
    change(row, {cancel = cancel})
    call('SADD', P .. 'cancel:' .. row.owner, id)
    call('PUBLISH', P .. 'asks:' .. row.owner, row.owner)
  else
    change(row, {cancel = cancel, status = 'cancelled', finished = now})
    finish(row, ttl)
  end
end
return read(id)
""")

_FIND = _Script("""
local row = has_key(ARGV[1], ARGV[2])
return row and read(row.id)
""")

_POP = _Script("""
local row = has_key(ARGV[1], ARGV[2])
call('HDEL', P .. 'keys:' .. ARGV[1], ARGV[2])
return row and read(row.id)
""")

_PURGE = _Script("""
local space, before, keep, keep_bytes, limit = unpack(ARGV)
local done = P .. 'done:' .. space
local old = call('ZCOUNT', done, '-inf', '(' .. before)
local above = keep ~= '' and call('ZCARD', done) - keep or 0
local removing = math.max(old, above)
if removing > 0 then
  local ids = call('ZRANGE', done, 0, math.min(removing, limit) - 1)
  for _, id in ipairs(ids) do remove(space, id) end
  return #ids
end
local excess, dropped = 0, 0
if keep_bytes ~= '' then
  excess = -keep_bytes
  for _, size in ipairs(call('HVALS', P .. 'sizes:' .. space)) do excess = excess + size end
end
if excess <= 0 then return 0 end
for _, id in ipairs(call('ZRANGE', done, 0, -1)) do
  local size = call('HGET', P .. 'sizes:' .. space, id)
  if size then
    call('HDEL', P .. 'sizes:' .. space, id)
    call('UNLINK', P .. 'pieces:' .. id)
    call('HDEL', P .. 'job:' .. id, 'result')  -- first, to make room for the change below
    local row = known(id)
    if row then change(row, {result_size = 0, result_state = 'absent'}) end
    dropped, excess = dropped + 1, excess - size
    if excess <= 0 or dropped >= tonumber(limit) then break end
  end
end
return dropped
""")


# -- rows ------------------------------------------------------------------------------------------

_PARSERS: dict[str, Any] = {"int": int, "float": float, "bytes": bytes}
_PARSER_OF = {
    field.name: _PARSERS.get(str(field.type).partition(" ")[0], bytes.decode)
    for field in fields(Row)
}


def _row(names: Sequence[str], values: Sequence[bytes | None]) -> Row | None:
    given = {
        name: _PARSER_OF[name](value)
        for name, value in zip(names, values, strict=True)
        if value is not None
    }
    return Row(**given) if "version" in given else None


def _flat(row: Row, url: str) -> list[bytes]:
    """Return a row as a list: its id, then names and values."""
    flat = [row.id.encode()]
    for name in COLUMNS[1:]:
        value = getattr(row, name)
        if value is not None:
            flat += (name.encode(), _encoded(value, url))
    return flat


def _encoded(value: object, url: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, float):
            return repr(value).encode()
        if isinstance(value, int) and value in _INTEGERS:
            return b"%d" % value
    except UnicodeEncodeError as error:
        raise UnstorableError(url, str(error)) from error
    raise UnstorableError(url, f"{type(value).__name__} cannot be stored")


# -- the store -------------------------------------------------------------------------------------


class RedisStore:
    """Implements :class:`Store`.

    Args:
        url: A URL for ``redis.from_url``. Raises ``ValueError`` if it cannot be parsed.
        shown: The URL without its password.
        ttl: Seconds that finished records are kept. If no process purges them, Redis drops them
            after twice that time.
    """

    listens = True

    def __init__(self, url: str, shown: str, ttl: float) -> None:
        self.url = shown
        self._redis: Any = import_module("redis")
        self._address = _without_our_query(url)
        self._ttl = max(1, round(ttl))
        self._client: Any = self._new_client(_CONNECTIONS, socket_timeout=_TIMEOUT)
        _stores.add(self)

    def _new_client(self, connections: int, **options: Any) -> Any:
        """Return a client, which connects on first use."""
        retry = import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
        pool = self._redis.BlockingConnectionPool.from_url(
            self._address,
            max_connections=connections,
            timeout=_TIMEOUT,  # for a free connection
            socket_connect_timeout=_TIMEOUT,
            retry=retry,  # none: records are rewritten later, and requests must not wait
            protocol=2,
            **options,
        )
        return self._redis.Redis(connection_pool=pool)

    def forget_parent(self) -> None:
        """Replace the client in the child of a fork: its connections are the parent's."""
        self._client = self._new_client(_CONNECTIONS, socket_timeout=_TIMEOUT)

    @contextmanager
    def errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (self._redis.RedisError, OSError) as error:
            raise StoreError(self.url, str(error)) from error

    def _run(self, script: _Script, *values: object) -> Any:
        arguments = [_encoded(value, self.url) for value in values]
        with self.errors():
            try:
                return self._client.evalsha(script.hash, 1, f"{_PREFIX}seq", *arguments)
            except self._redis.exceptions.NoScriptError:
                return self._client.eval(script.text, 1, f"{_PREFIX}seq", *arguments)

    # -- processes -------------------------------------------------------------------------------

    def register(self, owner: Owner) -> None:
        shown = {k: v for k, v in asdict(owner).items() if k not in {"id", "beats", "dead"}}
        self._run(_REGISTER, owner.id, json.dumps(shown))

    def beat(self, owner_id: str) -> Pulse:
        pulse: Pulse = self._run(_BEAT, owner_id).decode()
        return pulse

    def retire(self, owner_id: str) -> bool:
        return bool(self._run(_RETIRE, owner_id))

    def owners(self) -> list[Owner]:
        with self.errors(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(f"{_PREFIX}owners")
            pipeline.hgetall(f"{_PREFIX}beats")
            pipeline.smembers(f"{_PREFIX}holders")
            pipeline.zrange(f"{_PREFIX}dead", 0, -1)
            owners, beats, holders, dead = pipeline.execute()
        living = [
            Owner(id=owner_id.decode(), beats=int(beats.get(owner_id, 0)), **json.loads(shown))
            for owner_id, shown in owners.items()
        ]
        buried = set(dead)
        return living + [
            Owner(id=each.decode(), host="", pid=0, born="", dead=each in buried)
            for each in sorted(holders - set(owners))
        ]

    def bury(self, owner_id: str, reason: str, now: float, *, patient: bool = False) -> Burial:
        answer = self._run(_BURY, owner_id, reason, LOST, now, self._ttl, _TOMBSTONE)
        return self._burial_of(answer)

    def lose(self, job_id: str, owner_id: str, reason: str, now: float) -> Burial:
        return self._burial_of(self._run(_LOSE, job_id, owner_id, reason, LOST, now, self._ttl))

    def _burial_of(self, answer: Any) -> Burial:
        lost, again = ([each.decode() for each in ids] for ids in answer)
        return Burial(lost, list(self.get(again, results=True).values()))

    def untold(self, space: str) -> list[str]:
        with self.errors():
            return sorted(map(bytes.decode, self._client.smembers(f"{_PREFIX}untold:{space}")))

    def tell(self, job_id: str) -> bool:
        return bool(self._run(_TELL, job_id))

    # -- records that a process writes about its own jobs ----------------------------------------

    def write(self, rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        if len(rows) == 1:  # a pipeline costs more than the command
            (row,) = rows
            is_written = self._run(_WRITE, self._ttl, *_flat(row, self.url))
            return [] if is_written else [row.id]
        commands = [[str(self._ttl), *_flat(row, self.url)] for row in rows]
        with self.errors(), self._client.pipeline(transaction=False) as pipeline:
            for arguments in commands:
                pipeline.evalsha(_WRITE.hash, 1, f"{_PREFIX}seq", *arguments)
            answers = pipeline.execute(raise_on_error=False)  # its own exceptions quote the rows
            unknown = self._redis.exceptions.NoScriptError
            if any(isinstance(each, unknown) for each in answers):
                pipeline.script_load(_WRITE.text)
                for arguments in commands:  # all again: rows already written are refused
                    pipeline.evalsha(_WRITE.hash, 1, f"{_PREFIX}seq", *arguments)
                _, *again = pipeline.execute(raise_on_error=False)
                both = zip(answers, again, strict=True)
                answers = [second if isinstance(each, unknown) else each for each, second in both]
            for each in answers:
                if isinstance(each, Exception):
                    raise each
        return [row.id for row, is_written in zip(rows, answers, strict=True) if not is_written]

    def claim(self, row: Row, on_duplicate: OnDuplicate) -> Row | None:
        kept = self._run(_CLAIM, self._ttl, on_duplicate, *_flat(row, self.url))
        return None if kept is None else _row(_READ, kept)

    def release(self, space: str, key: str, job_id: str) -> None:
        self._run(_RELEASE, space, key, job_id)

    def enqueue(self, row: Row, owner_id: str) -> bool:
        return bool(self._run(_ENQUEUE, self._ttl, owner_id, *_flat(row, self.url)))

    def withdraw(self, job_id: str) -> bool:
        return bool(self._run(_WITHDRAW, job_id))

    def add_piece(self, job_id: str, owner_id: str, number: int, data: bytes) -> bool:
        return bool(self._run(_ADD_PIECE, job_id, owner_id, number, data))

    # -- jobs that wait in an engine -------------------------------------------------------------

    def take(self, job_id: str, attempt: int, owner: Owner, now: float) -> Row | None:
        ending = (EXPIRED, NOT_IN_TIME, self._ttl)
        taken = self._run(_TAKE, job_id, attempt, owner.id, owner.server, now, *ending)
        return None if taken is None else _row(_READ, taken)

    def expire(self, space: str, now: float) -> list[str]:
        ended = self._run(_EXPIRE, space, now, EXPIRED, NOT_IN_TIME, self._ttl)
        return [job_id.decode() for job_id in ended]

    # -- cancelling ------------------------------------------------------------------------------

    def ask_to_cancel(self, job_id: str, now: float, *, kill: bool = False) -> Row | None:
        found = self._run(_ASK_TO_CANCEL, job_id, now, 2 if kill else 1, self._ttl)
        return None if found is None else _row(_READ, found)

    def asked_to_cancel(self, owner_id: str) -> list[tuple[str, bool]]:
        with self.errors():
            ids = sorted(self._client.smembers(f"{_PREFIX}cancel:{owner_id}"))
        asked = self._columns([job_id.decode() for job_id in ids], ("cancel",))
        return [(job_id, cancel == b"2") for job_id, (cancel,) in asked if cancel is not None]

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_ids: Collection[str], *, results: bool = False) -> dict[str, Row]:
        rows = self._rows(job_ids, COLUMNS if results else _READ)
        return {row.id: row for row in rows}

    def _rows(self, job_ids: Collection[str], names: Sequence[str]) -> list[Row]:
        rows = [_row(names, values) for _, values in self._columns(job_ids, names)]
        return [row for row in rows if row is not None]

    def _columns(
        self, job_ids: Collection[str], names: Sequence[str]
    ) -> list[tuple[str, list[bytes | None]]]:
        if not job_ids:
            return []
        if len(job_ids) == 1:  # a pipeline costs more than the command
            with self.errors():
                (job_id,) = job_ids
                return [(job_id, self._client.hmget(f"{_PREFIX}job:{job_id}", names))]
        with self.errors(), self._client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hmget(f"{_PREFIX}job:{job_id}", names)
            return list(zip(job_ids, pipeline.execute(), strict=True))

    def find(self, space: str, key: str) -> Row | None:
        found = self._run(_FIND, space, key)
        return None if found is None else _row(_READ, found)

    def pop(self, space: str, key: str) -> Row | None:
        found = self._run(_POP, space, key)
        return None if found is None else _row(_READ, found)

    def page(self, space: str, query: Query) -> list[Row]:
        index = f"all:{space}" if query.user is None else f"user:{space}\0{query.user}"
        return list(islice(self._matching(f"{_PREFIX}{index}", query), query.limit))

    def _matching(self, index: str, query: Query) -> Iterable[Row]:
        filters = (query.status, query.name, query.label, query.executor)
        count = query.limit if filters == (None,) * len(filters) else _PAGE
        below: Any = "+inf"
        if query.before is not None:
            with self.errors():
                below = self._client.hget(f"{_PREFIX}job:{query.before}", "seq")
        while below is not None:
            with self.errors():
                found = self._client.zrevrangebyscore(
                    index,
                    b"(" + below if isinstance(below, bytes) else below,
                    "-inf",
                    0,
                    count,
                    True,
                )
            for row in self._rows([job_id.decode() for job_id, _ in found], _LISTED):
                if matches(row, query):
                    yield row
            below = b"%d" % found[-1][1] if len(found) == count else None

    def counts(self, space: str, user: str | None) -> dict[str, int]:
        index = f"all:{space}" if user is None else f"user:{space}\0{user}"
        with self.errors():
            ids = [each.decode() for each in self._client.zrange(f"{_PREFIX}{index}", 0, -1)]
        counts: dict[str, int] = {}
        for first in range(0, len(ids), _PAGE):
            for _, (status,) in self._columns(ids[first : first + _PAGE], ("status",)):
                if status is not None:
                    counts[status.decode()] = counts.get(status.decode(), 0) + 1
        return counts

    def count_keys(self, space: str) -> int:
        with self.errors():
            count: int = self._client.hlen(f"{_PREFIX}keys:{space}")
            return count

    def piece(self, job_id: str, number: int) -> bytes | None:
        with self.errors():
            data: bytes | None = self._client.hget(f"{_PREFIX}pieces:{job_id}", str(number))
            return data

    # -- bounds ----------------------------------------------------------------------------------

    def purge(
        self,
        space: str,
        *,
        finished_before: float,
        keep: int | None = None,
        keep_bytes: int | None = None,
        limit: int = 500,
    ) -> int:
        bounds = ("" if bound is None else bound for bound in (keep, keep_bytes))
        removed: int = self._run(_PURGE, space, float(finished_before), *bounds, limit)
        return removed

    # -- changes ---------------------------------------------------------------------------------

    def mark(self) -> Hashable:
        raise NotImplementedError("this store reports changes; use its listener()")

    def listener(self, space: str, owner_id: str) -> Listener:
        return _RedisListener(self, space, owner_id)

    def new_subscription(self) -> Any:
        """Return a subscription to nothing yet, with its own connection."""
        options: dict[str, Any] = {"health_check_interval": _KEEPALIVE, "socket_timeout": None}
        return self._new_client(1, **options).pubsub()

    def subscribe(self, pubsub: Any, channel: str) -> None:
        """Subscribe, and wait until Redis has confirmed it."""
        pubsub.subscribe(f"{_PREFIX}{channel}")
        end = monotonic() + _TIMEOUT
        while (message := pubsub.get_message(timeout=max(0.0, end - monotonic()))) is not None:
            if message["type"] == "subscribe":  # before it, messages of other channels may come
                return
        raise self._redis.exceptions.TimeoutError("no answer to a subscription")

    def wake(self, owner_id: str) -> None:
        with self.errors():
            self._client.publish(f"{_PREFIX}asks:{owner_id}", "")

    # -- the place -------------------------------------------------------------------------------

    def hazards(self) -> Iterator[Hazard]:
        forbidden = self._redis.exceptions.NoPermissionError
        memory: dict[str, Any] = {}
        with self.errors():
            try:
                memory = self._client.info("memory")
            except forbidden as error:
                yield _without_rights(error, "Whether Redis drops records is unknown.", vital=False)
        policy = memory.get("maxmemory_policy", "")
        if policy.startswith("allkeys-"):
            full = "when it is full" if memory.get("maxmemory") else "once it has a maxmemory"
            yield Hazard(
                "store-evicts",
                f"Redis drops any key {full} (maxmemory-policy {policy}), even the records of "
                "running jobs, whose results then never arrive.",
                "Set maxmemory-policy to noeviction or volatile-lru, or use a separate Redis: "
                "records must not share one with a cache.",
                must_mend=bool(memory.get("maxmemory")),
            )
        with self.errors():
            try:
                # Both change nothing. The first is refused wherever records would be: by a replica,
                # or by a full Redis. The second needs a right to channels.
                self._client.setrange(f"{_PREFIX}seq", 0, b"")
                self._client.publish(f"{_PREFIX}asks:", "")
            except forbidden as error:
                yield _without_rights(error, "Jobs cannot be recorded.", vital=True)

    def close(self) -> None:
        self._client.connection_pool.disconnect()


def _without_rights(error: Exception, effect: str, *, vital: bool) -> Hazard:
    return Hazard(
        "store-forbids",
        f"Redis: {error}. {effect}",
        f"Give the user these rights with ACL SETUSER: {_RIGHTS}",
        must_mend=vital,
    )


class _RedisListener:
    """A subscription on its own connection, which has no read timeout."""

    def __init__(self, store: RedisStore, space: str, owner_id: str) -> None:
        self._store = store
        self._owner_id = owner_id
        self._pubsub: Any = None
        self._channels = [f"asks:{owner_id}", f"events:{space}", f"starts:{space}"]
        """Those that are not subscribed to yet, in the order of :class:`Hears`."""

    def wait(self, seconds: float, hears: Hears) -> dict[str, bytes] | None:
        with self._store.errors():
            if self._pubsub is None:
                self._pubsub = self._store.new_subscription()
            is_new = False
            while len(self._channels) > Hears.STARTS - hears:
                self._store.subscribe(self._pubsub, self._channels.pop(0))
                is_new = True
            if is_new:
                return None  # earlier changes were missed
            heard: dict[str, bytes] = {}
            message = self._pubsub.get_message(timeout=seconds)
            while message is not None:
                if message["type"] == "message":
                    job_id, _, record = message["data"].partition(b"\n")
                    heard[job_id.decode()] = record
                message = self._pubsub.get_message()
            heard.pop("", None)
            return heard

    def row_of(self, record: bytes) -> Row | None:
        try:
            # Lua's JSON leaves all bytes above 127 as they are.
            given = json.loads(record.decode("latin-1"))
            values = {name: str(given[name]).encode("latin-1") for name in COLUMNS if name in given}
            return _row(list(values), list(values.values()))
        except Exception:  # there is none, or another release has other columns: it is read
            return None

    def wake(self) -> None:
        self._store.wake(self._owner_id)

    def close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()
            pubsub.connection_pool.disconnect()


def _without_our_query(url: str) -> str:
    address, _, query = url.partition("?")
    others = [(k, v) for k, v in parse_qsl(query) if k not in {"space", "decode_responses"}]
    return f"{address}?{urlencode(others)}" if others else address


_stores: WeakSet[RedisStore] = WeakSet()  # listed only where there is one thread, after a fork


@in_child
def _forget_parent() -> None:
    for store in list(_stores):
        store.forget_parent()
