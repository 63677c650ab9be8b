-- What may be asked of the job record, one atomic step a call. Begins with `redis_jobs_record.lua`.
--
-- ARGV[1] is the operation, the rest its arguments (times in milliseconds). An answer begins with 'ok', 'missing',
-- 'lost', 'conflict', 'full', 'final', 'unpaused', 'nothing', 'granted' or 'spent'.

local function held(job, epoch)
  return job.state == 'running' and job.epoch == tonumber(epoch)
end

local operations = {}

function operations.submit(id, kind, spec, idempotency, digest, keep, wait, owner, key_id, most)
  local key = prefix .. 'idempotency:' .. idempotency
  if idempotency ~= '' then
    local before = redis.call('GET', key)
    if before then
      local digest_before, id_before = string.match(before, '^(%S+) (%S+)$')
      if digest_before ~= digest then return { 'conflict' } end
      -- Our own id: the first try arrived and only its answer was lost.
      return { 'ok', id_before == id and 1 or 0, id_before, redis.call('HGETALL', record_key(id_before)) }
    end
  end
  local is_new = redis.call('EXISTS', record_key(id)) == 0
  if is_new and owner ~= '' and unfinished_jobs(owner) >= tonumber(most) then return { 'full' } end
  if idempotency ~= '' then redis.call('SET', key, digest .. ' ' .. id, 'PX', keep) end
  if is_new then
    create(id, kind, spec, nil, owner ~= '' and owner, wait, key_id ~= '' and key_id)
  end
  return { 'ok', 1, id, redis.call('HGETALL', record_key(id)) }
end

function operations.get(id)
  local record = redis.call('HGETALL', record_key(id))
  if #record == 0 then return { 'missing' } end
  return { 'ok', record }
end

function operations.events(id, after, limit)
  if redis.call('EXISTS', record_key(id)) == 0 then return { 'missing' } end
  return { 'ok', redis.call('XRANGE', record_key(id) .. ':events', after, '+', 'COUNT', limit) }
end

local function children_below(parent, state, kind, below, limit, owner)
  local job, ids = load(parent), {}
  for place = job and #job.children or 0, 1, -1 do
    if #ids == tonumber(limit) then break end
    local child = load(job.children[place])
    if (below == '+inf' or tonumber(child.sequence) < tonumber(string.sub(below, 2)))
      and (state == '*' or state == child.state) and (kind == '*' or kind == child.kind)
      and (owner == '' or owner == child.owner) then
      ids[#ids + 1] = child.id
    end
  end
  return ids
end

function operations.list(state, kind, below, limit, parent, owner)
  local ids
  if parent ~= '' then
    ids = children_below(parent, state, kind, below, limit, owner)
  else
    ids = redis.call('ZREVRANGEBYSCORE', index_key(owner ~= '' and owner, state, kind), below, '-inf',
      'LIMIT', 0, limit)
  end
  local page = { 'ok' }
  for _, id in ipairs(ids) do
    page[#page + 1] = id
    page[#page + 1] = redis.call('HGETALL', record_key(id))
  end
  return page
end

local function lend(job, lease)
  local lease_until = now + tonumber(lease)
  set(job, 'until', whole(lease_until))
  due_at(job.id, lease_until)
end

local function granted(job)
  local ends = {}
  for _, child in ipairs(job.children) do
    ends[#ends + 1] = child
    ends[#ends + 1] = redis.call('HGETALL', record_key(child))
  end
  local key = record_key(job.id)
  return { 'granted', job.epoch, job.attempts, redis.call('HGET', key, 'spec'), job.parent or '', ends,
    job.owner or '', redis.call('HGET', key, 'key') or '' }
end

-- `failure` is the JSON to fail the job with where its attempts are spent; '' asks for the facts first.
function operations.acquire(id, lease, most, taker, failure)
  local job = load(id)
  if not job then return { 'missing' } end
  -- By the same taker: the first try arrived and only its answer was lost.
  if is_held(job) and job.taker == taker then
    lend(job, lease)
    return granted(job)
  end
  if is_held(job) or job.state ~= 'running' and job.state ~= 'queued' then return { 'nothing' } end
  if job.state == 'running' and settle(job) then return { 'nothing' } end
  if job.attempts >= tonumber(most) then
    if failure == '' then return { 'spent', job.attempts, job.reason } end
    finish(job, 'failed', 'failure', failure)
    return { 'nothing' }
  end
  job.epoch = job.epoch + 1
  job.attempts = job.attempts + 1
  set(job, 'epoch', job.epoch, 'attempts', job.attempts, 'resends', '0', 'taker', taker)
  redis.call('HSETNX', record_key(id), 'started', whole(now))
  lend(job, lease)
  move(job, 'running')
  return granted(job)
end

function operations.renew(id, epoch, lease)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  lend(job, lease)
  return { 'ok', job.cancel and 1 or 0, job.pause and 1 or 0 }
end

function operations.look(id, epoch)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  return { 'ok', job.cancel and 1 or 0, job.pause and 1 or 0 }
end

function operations.progress(id, epoch, progress)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  set(job, 'progress', progress)
  event(job, 'progress', progress)
  return { 'ok' }
end

function operations.note(id, epoch, note)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  event(job, 'note', note)
  return { 'ok' }
end

function operations.finish(id, epoch, state, field, value)
  local job = load(id)
  if not job then return { 'missing' } end
  -- Ended by the same holder: the first try arrived and only its answer was lost.
  if FINAL[job.state] and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  finish(job, state, field, value)
  return { 'ok', job.state }
end

function operations.release(id, epoch, died, reason, wait)
  local job = load(id)
  if not job then return { 'missing' } end
  -- By the same holder: the first try arrived and only its answer was lost.
  local given_back = job.state == 'queued' or job.state == 'paused'
  if given_back and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'ok', job.state }
  end
  if died == '1' then
    set(job, 'reason', reason)
  else
    job.attempts = job.attempts - 1
  end
  set(job, 'attempts', job.attempts, 'until', '0', 'resends', '0')
  if job.pause then
    put_aside(job)
  else
    due_at(id, now + tonumber(wait))
    move(job, 'queued')
  end
  return { 'ok', job.state }
end

-- `children` is JSON of [id, kind, spec as JSON] each.
function operations.wait(id, epoch, children, wait)
  local job = load(id)
  if not job then return { 'missing' } end
  -- By the same holder, and it does not run: the first try arrived and only its answer was lost.
  if job.state ~= 'running' and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'ok', job.state }
  end
  for _, child in ipairs(cjson.decode(children)) do
    local child_id, kind, spec = unpack(child)
    if redis.call('EXISTS', record_key(child_id)) == 0 then
      create(child_id, kind, spec, id, job.owner, wait, redis.call('HGET', record_key(id), 'key'))
      redis.call('SADD', unfinished_key(id), child_id)
      job.children[#job.children + 1] = child_id
    end
  end
  job.attempts = job.attempts - 1
  set(job, 'attempts', job.attempts, 'until', '0')
  local unfinished = unfinished_count(job)
  if unfinished == 0 then
    if job.pause then put_aside(job) else wake(job) end
    return { 'ok', job.state }
  end
  local made = cjson.encode(job.children)
  job.waiting_since, job.ended_before = now, #job.children - unfinished
  set(job, 'children', made, 'waiting_since', whole(now), 'ended_before', job.ended_before)
  redis.call('ZREM', prefix .. 'due', id)
  move(job, 'waiting', ',"children":' .. made)
  count_children(job)
  if job.pause then put_aside(job) end
  return { 'ok', job.state }
end

function operations.cancel(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state == 'succeeded' or job.state == 'failed' then return { 'final', job.state } end
  cancel(job)
  return { 'ok', redis.call('HGETALL', record_key(id)) }
end

function operations.pause(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if FINAL[job.state] then return { 'final', job.state } end
  pause(job)
  return { 'ok', redis.call('HGETALL', record_key(id)) }
end

function operations.resume(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if not resume(job) then return { 'unpaused', job.state } end
  return { 'ok', redis.call('HGETALL', record_key(id)) }
end

function operations.claim(limit, wait, longest)
  local claimed = { 'ok' }
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', whole(now), 'LIMIT', 0, limit)) do
    local job = load(id)
    if not job or job.state ~= 'queued' and job.state ~= 'running' then
      redis.call('ZREM', prefix .. 'due', id)
    elseif job.state == 'queued' or is_held(job) or not settle(job) then
      due_at(id, now + math.min(tonumber(wait) * 2 ^ job.resends, tonumber(longest)))
      set(job, 'resends', job.resends + 1)
      claimed[#claimed + 1] = id
    end
  end
  return claimed
end

return operations[ARGV[1]](unpack(ARGV, 2))
