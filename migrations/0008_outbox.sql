-- The outbox: messages for the operator's webhook. A row is written in the transaction of what it tells, so that nothing is told that did
-- not happen, and nothing that happened is forgotten by a daemon that dies. docs/webhook.md has the whole story.

-- What the daemons that have a webhook say of it. One row at most. It tells the functions below whether anybody wants messages: an operator's
-- `defib hold` knows nothing of the daemon's configuration.
create table defib.webhook (
    only_one      boolean primary key default true constraint webhook_only_one_check check (only_one),
    target        text not null,
    host          text not null,
    format        text not null,
    events        text[],
    configured_by text not null,
    configured_at timestamptz not null default clock_timestamp(),
    wanted_until  timestamptz not null,
    failures      integer not null default 0,
    paused_until  timestamptz,
    off_since     timestamptz,
    off_because   text,
    answer        text,
    answered_at   timestamptz,
    delivered_at  timestamptz,
    constraint webhook_off_check check ((off_since is null) = (off_because is null))
) with (fillfactor = 50);
comment on table defib.webhook is 'The webhook that the daemons are configured for, and how it fares. One row; none: there has never been a webhook.';
comment on column defib.webhook.only_one is 'Always true: there is one row.';
comment on column defib.webhook.target is 'A hash of the URL and the format. A daemon delivers only while this is its own: of two that differ, the one that started last.';
comment on column defib.webhook.host is 'The host of the URL. The rest of it may be secret.';
comment on column defib.webhook.format is 'DEFIB_WEBHOOK_FORMAT.';
comment on column defib.webhook.events is 'DEFIB_WEBHOOK_EVENTS: the types that are sent; null: all.';
comment on column defib.webhook.configured_by is 'The replica that has said so first.';
comment on column defib.webhook.configured_at is 'When.';
comment on column defib.webhook.wanted_until is 'Messages are written until then. A running daemon that has the webhook moves it on each minute.';
comment on column defib.webhook.failures is 'Attempts in a row that the receiver did not answer, or answered with a fault of its own.';
comment on column defib.webhook.paused_until is 'No replica asks the receiver before.';
comment on column defib.webhook.off_since is 'Since when nothing is sent, because the receiver answered 410; null: it is on.';
comment on column defib.webhook.off_because is 'What it answered.';
comment on column defib.webhook.answer is 'What came of the last attempt.';
comment on column defib.webhook.answered_at is 'When that was.';
comment on column defib.webhook.delivered_at is 'When a message was last delivered.';

create table defib.outbox (
    id           bigint generated always as identity primary key,
    message_id   text not null default 'msg_' || replace(gen_random_uuid()::text, '-', ''),
    type         text not null,
    subject      text not null,
    workspace_id text,
    engine       text,
    data         jsonb not null,
    happened_at  timestamptz not null default clock_timestamp(),
    gathered     boolean not null default false,
    tries        integer not null default 0,
    next_at      timestamptz not null default clock_timestamp(),
    taken_by     text,
    taken_until  timestamptz,
    answer       text
) with (fillfactor = 70);
comment on table defib.outbox is 'Messages that the webhook is still owed. One that was delivered is deleted.';
comment on column defib.outbox.id is 'In the order of what is told.';
comment on column defib.outbox.message_id is 'The header webhook-id. The same for every attempt, so that a receiver can tell a repetition.';
comment on column defib.outbox.type is 'What is told: restart.succeeded, hold.placed, …';
comment on column defib.outbox.subject is 'Messages of one subject are delivered in the order of their ids: a workspace, an engine, or the fleet.';
comment on column defib.outbox.workspace_id is 'About which workspace; null: about none in particular.';
comment on column defib.outbox.engine is 'Where; null: on no engine, or on all.';
comment on column defib.outbox.data is 'The field data of the message.';
comment on column defib.outbox.happened_at is 'When it happened: the field timestamp of the message.';
comment on column defib.outbox.gathered is 'It happened in a storm. It waits for the others of its type and engine, to become one digest with them if there are many.';
comment on column defib.outbox.tries is 'Attempts so far that failed.';
comment on column defib.outbox.next_at is 'The next attempt is not made before.';
comment on column defib.outbox.taken_by is 'The replica that delivers it now.';
comment on column defib.outbox.taken_until is 'After this that replica counts as gone, and another one delivers it; null: nobody delivers it now.';
comment on column defib.outbox.answer is 'What came of the last attempt.';

create index outbox_in_order on defib.outbox (subject, id);
comment on index defib.outbox_in_order is 'Whether an earlier message about the same subject still waits.';
create index outbox_gathered on defib.outbox (type, engine) where gathered;
comment on index defib.outbox_gathered is 'Those that may become a digest.';

-- A sequence, because counting must neither wait for a lock nor be rolled back with what it counts.
create sequence defib.messages_lost minvalue 0 start 0;
comment on sequence defib.messages_lost is 'How many messages could not be written (its value, once it was called): the outbox was locked, full or gone.';

-- Writes messages, in the transaction of the caller. It is called in the middle of what matters more (the outcome of a restart), so:
-- 1. It never raises. What it does is a savepoint of its own, and a message that cannot be written is counted and given up.
-- 2. It waits for no lock for longer than 50 ms, and gives up after the first one.
-- 3. Where no daemon has a webhook, or the receiver has turned it off, it reads one row and does nothing.
-- A message about one workspace that belongs to a storm is gathered: in what the engine's owner says now, there is a storm on its engine.
create function defib.tell_all(types text[], workspaces text[], engines text[], details jsonb[]) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
declare
    told integer;
begin
    begin
        insert into defib.outbox (type, subject, workspace_id, engine, data, gathered)
        select m.what,
               case when m.workspace is not null then 'workspace ' || m.workspace
                    when m.place is not null then 'engine ' || m.place
                    else 'fleet' end,
               m.workspace, m.place, m.detail,
               m.workspace is not null and m.what not like 'hold.%'
                   and exists (select from defib.engines e
                                where e.storm is not null and e.good_until > clock_timestamp()
                                  and (e.engine = coalesce(m.place, '') or e.storm ->> 'fleet' = 'true'))
          from unnest(types, workspaces, engines, details) with ordinality as m(what, workspace, place, detail, nth)
          join defib.webhook w
            on w.wanted_until > clock_timestamp() and w.off_since is null and (w.events is null or m.what = any (w.events))
         order by m.nth;
        get diagnostics told = row_count;
        return told;
    exception
        when others then
            null;
    end;
    begin
        perform nextval('defib.messages_lost') from unnest(types);
    exception
        when others then
            null;
    end;
    return 0;
end
$$;
comment on function defib.tell_all(text[], text[], text[], jsonb[]) is
    'Writes messages for the webhook, if there is one that wants them, and returns how many. Never raises, and waits 50 ms for a lock at most.';

create function defib.tell(type text, workspace_id text, engine text, data jsonb) returns integer
language sql volatile
as $$
    select defib.tell_all(array[tell.type], array[tell.workspace_id], array[tell.engine], array[tell.data])
$$;
comment on function defib.tell(text, text, text, jsonb) is 'Writes one message for the webhook, as defib.tell_all does.';

create function defib.count_lost_messages() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when is_called then last_value + 1 else 0 end from defib.messages_lost
$$;
comment on function defib.count_lost_messages() is 'How many messages could not be written since this schema was made.';

create function defib.resume_webhook() returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was_off boolean;
begin
    select w.off_since is not null into was_off from defib.webhook w for update;
    update defib.webhook set off_since = null, off_because = null, failures = 0, paused_until = null;
    return was_off;
end
$$;
comment on function defib.resume_webhook() is
    'Sends to the webhook again after its receiver answered 410, and does not wait for the end of a pause. Null: there is no webhook. False: it was on.';

-- Holds are placed and released by these functions, and by nothing else that defib has, so they tell of it.

create or replace function defib.place_hold(scope text, target text, reason text, owner text default null, lasting interval default null)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    placed defib.holds;
begin
    insert into defib.holds (scope, target, owner, reason, expires_at, login)
    values (place_hold.scope, place_hold.target, coalesce(nullif(place_hold.owner, ''), session_user), place_hold.reason,
            now() + place_hold.lasting, session_user)
    returning * into placed;
    perform defib.tell('hold.placed',
        case placed.scope when 'workspace' then placed.target end, case placed.scope when 'engine' then placed.target end,
        jsonb_build_object(
            'hold_id', placed.id, 'scope', placed.scope, 'target', placed.target, 'owner', placed.owner, 'login', placed.login,
            'reason', left(placed.reason, 500), 'expires_at', placed.expires_at));
    return placed.id;
end
$$;

create or replace function defib.release_holds(scope text, target text, released_by text default null) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    released bigint;
    details  jsonb[];
    is_of    text := release_holds.target;
begin
    with gone as (
        update defib.holds h set released_at = now(), released_by = defib.signature(release_holds.released_by)
         where h.released_at is null and (h.expires_at is null or h.expires_at > now())
           and h.scope = release_holds.scope and h.target is not distinct from release_holds.target
        returning h.*)
    select count(*), array_agg(jsonb_build_object(
               'hold_id', gone.id, 'scope', gone.scope, 'target', gone.target, 'owner', gone.owner, 'reason', left(gone.reason, 500),
               'placed_at', gone.created_at, 'released_by', gone.released_by) order by gone.id)
      into released, details
      from gone;
    if released > 0 then
        perform defib.tell_all(
            array_fill('hold.released'::text, array[released::integer]),
            array_fill(case release_holds.scope when 'workspace' then is_of end, array[released::integer]),
            array_fill(case release_holds.scope when 'engine' then is_of end, array[released::integer]),
            details);
    end if;
    return released;
end
$$;
