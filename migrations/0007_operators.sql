-- What a running daemon says of itself and of its engines, so that what operators are told is true now; what operators order; and the
-- roles for it. Everything that an operator may do is a function here, because a login that may call these needs no right on any table.

-- What each replica says of itself.

alter table defib.replicas
    add column mode text,
    add column version text,
    add column watched_statuses text[],
    add column heartbeats_usable boolean,
    add column last_pass_at timestamptz;
comment on column defib.replicas.heartbeats_usable is
    'Whether it takes a stale heartbeat as evidence now: not after an outage, nor while half of the fleet is silent at once. Null: it has not made a pass yet.';
comment on column defib.replicas.mode is 'DEFIB_MODE: enforce, or observe (it judges and records, and restarts nobody); null: it has not made a pass yet.';
comment on column defib.replicas.version is 'The version of its program.';
comment on column defib.replicas.watched_statuses is 'DEFIB_WATCHED_STATUSES: rows of defib.fleet with any other status are not judged by it.';
comment on column defib.replicas.last_pass_at is 'When it last read and judged the fleet.';

create table defib.engines (
    engine       text primary key,
    holder       text not null,
    answers      boolean not null,
    fault        text,
    asked_at     timestamptz not null,
    judged       integer not null,
    storm        jsonb,
    last_pass_at timestamptz not null,
    good_until   timestamptz not null
) with (fillfactor = 50);
comment on table defib.engines is 'What the owner of an engine said of it after its last pass. The word of a holder that no longer has the lease counts for nothing.';
comment on column defib.engines.engine is 'A name from DEFIB_ENGINES; the empty text stands for the workspaces that have no engine (kind external).';
comment on column defib.engines.holder is 'The replica that says it (DEFIB_REPLICA_ID).';
comment on column defib.engines.answers is 'Whether the engine gave a usable answer.';
comment on column defib.engines.fault is 'Why not.';
comment on column defib.engines.asked_at is 'When it was asked.';
comment on column defib.engines.judged is 'How many of its workspaces were judged in that pass.';
comment on column defib.engines.storm is 'Null: no storm. Else {"fleet": is it the whole fleet''s, "since_seconds", "batch", "canaries": [the first ids], "under_way", "waiting"}: how restarts go there.';
comment on column defib.engines.last_pass_at is 'When that pass ended.';
comment on column defib.engines.good_until is 'When the next pass was due at the latest. After it this row is history, and nobody judges the engine''s workspaces.';

create table defib.cadences (
    workspace_id text primary key,
    mean_ms      real not null constraint cadences_mean_check check (mean_ms >= 0),
    deviation_ms real not null constraint cadences_deviation_check check (deviation_ms >= 0),
    intervals    integer not null,
    window_ms    real,
    container_id text,
    started_at   timestamptz,
    own_settings text[],
    updated_at   timestamptz not null default now()
) with (fillfactor = 85);
comment on table defib.cadences is 'What was learned of each workspace: its heartbeat interval, so that a daemon that starts anew knows it, and for defib explain what is kept nowhere else of one that is alive. Written lazily; each row can be lost without harm.';
comment on column defib.cadences.workspace_id is 'Whose.';
comment on column defib.cadences.mean_ms is 'Mean interval in milliseconds.';
comment on column defib.cadences.deviation_ms is 'Mean deviation from it in milliseconds.';
comment on column defib.cadences.intervals is 'From how many intervals it was learned.';
comment on column defib.cadences.window_ms is 'A heartbeat younger than this was fresh when the row was written.';
comment on column defib.cadences.container_id is 'The container that it was found in.';
comment on column defib.cadences.started_at is 'When that was started, where the engine has told.';
comment on column defib.cadences.own_settings is 'What its own settings (policy, container labels) change, and what of them is not used.';
comment on column defib.cadences.updated_at is 'When it was last written.';

-- What operators order. The daemon carries it out: it alone knows how, and it may say no.

create table defib.orders (
    id           bigint generated always as identity primary key,
    kind         text not null constraint orders_kind_check check (kind in ('restart', 'storm_end')),
    workspace_id text,
    engine       text,
    force        boolean not null default false,
    reason       text not null,
    login        text not null,
    ordered_by   text not null,
    ordered_at   timestamptz not null default clock_timestamp(),
    taken_by     text,
    taken_at     timestamptz,
    ended_at     timestamptz,
    done         boolean,
    answer       text,
    restart_id   bigint,
    constraint orders_target_check check (
        case kind when 'restart' then workspace_id is not null else workspace_id is null end),
    constraint orders_ended_check check ((ended_at is null) = (done is null))
);
comment on table defib.orders is 'What operators ordered (defib restart, defib storm end), by whom and why, and what came of it.';
comment on column defib.orders.id is 'The order.';
comment on column defib.orders.kind is 'restart: of workspace_id. storm_end: of engine, or of the whole fleet where that is null.';
comment on column defib.orders.workspace_id is 'Whose restart; null for a storm.';
comment on column defib.orders.engine is 'On which engine the storm ends; null for a restart, and for the storm of the whole fleet.';
comment on column defib.orders.force is 'Also against a hold and a status that is not watched.';
comment on column defib.orders.reason is 'Why.';
comment on column defib.orders.login is 'The database login that ordered it, as the database knows it.';
comment on column defib.orders.ordered_by is 'The person, as the caller says it (the system user of the command).';
comment on column defib.orders.ordered_at is 'When.';
comment on column defib.orders.taken_by is 'The replica that took it.';
comment on column defib.orders.taken_at is 'When; null: nobody has yet.';
comment on column defib.orders.ended_at is 'When it was carried out or refused; null: not yet.';
comment on column defib.orders.done is 'Whether it was carried out; null: not yet known.';
comment on column defib.orders.answer is 'What came of it, in a sentence.';
comment on column defib.orders.restart_id is 'The row in defib.restarts.';

create unique index orders_one_restart_at_a_time on defib.orders (workspace_id) where ended_at is null and kind = 'restart';
comment on index defib.orders_one_restart_at_a_time is 'Whoever orders twice orders once.';
create index orders_standing on defib.orders (id) where ended_at is null;
comment on index defib.orders_standing is 'Those that somebody has to take or to finish.';
create index orders_of on defib.orders (workspace_id, id);
comment on index defib.orders_of is 'For defib explain.';

alter table defib.suspicions add column finding text;
comment on column defib.suspicions.finding is 'What the look that it asked for found: the verdict after it, or why nothing was looked at. Null: nobody has looked, or the word of it was lost.';

alter table defib.holds
    add column login text default session_user,
    add column released_by text;
comment on column defib.holds.login is 'The database login that asked for it; null: it is older than this column.';
comment on column defib.holds.released_by is 'Who released it: the person as the caller says it, and the database login.';

alter table defib.restarts add column acknowledged_by text;
comment on column defib.restarts.acknowledged_by is 'Who said that it no longer counts: the person as the caller says it, and the database login.';

-- What an operator may call. session_user is the login also inside a security definer function.

create function defib.signature(person text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when nullif(person, '') is null or person = session_user then session_user::text
                else defib.visible(person, 100) || ' (login ' || session_user || ')' end
$$;
comment on function defib.signature(text) is 'Who acts, for the record: the person as the caller says it, and the database login.';

create function defib.place_hold(scope text, target text, reason text, owner text default null, lasting interval default null)
returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    insert into defib.holds (scope, target, owner, reason, expires_at, login)
    values (place_hold.scope, place_hold.target, coalesce(nullif(place_hold.owner, ''), session_user), place_hold.reason,
            now() + place_hold.lasting, session_user)
    returning id
$$;
comment on function defib.place_hold(text, text, text, text, interval) is
    'Holds restarts (scope fleet, engine or workspace; lasting null: until it is released), and returns the id. The login is recorded.';

create function defib.release_holds(scope text, target text, released_by text default null) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    with released as (
        update defib.holds h set released_at = now(), released_by = defib.signature(release_holds.released_by)
         where h.released_at is null and (h.expires_at is null or h.expires_at > now())
           and h.scope = release_holds.scope and h.target is not distinct from release_holds.target
        returning h.id)
    select count(*) from released
$$;
comment on function defib.release_holds(text, text, text) is 'Releases every standing hold on exactly this scope, and returns how many there were. The login is recorded.';

create function defib.acknowledge(workspace_id text, acknowledged_by text default null) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    with acknowledged as (
        update defib.restarts r
           set acknowledged_at = now(), run_ended_at = coalesce(r.run_ended_at, now()),
               acknowledged_by = defib.signature(acknowledge.acknowledged_by)
         where r.workspace_id = acknowledge.workspace_id and r.acknowledged_at is null and r.finished_at is not null
        returning r.id)
    select count(*) from acknowledged
$$;
comment on function defib.acknowledge(text, text) is 'Says that the ended attempts of a workspace no longer count, and returns how many there were. The login is recorded.';

create function defib.order_restart(workspace_id text, reason text, ordered_by text default null, force boolean default false)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    order_id bigint;
begin
    insert into defib.orders (kind, workspace_id, reason, ordered_by, force, login)
    values ('restart', order_restart.workspace_id, defib.visible(order_restart.reason, 1000),
            coalesce(nullif(defib.visible(order_restart.ordered_by, 100), ''), session_user), order_restart.force, session_user)
        on conflict do nothing
    returning id into order_id;
    if order_id is null then
        return (select o.id from defib.orders o
                 where o.workspace_id = order_restart.workspace_id and o.kind = 'restart' and o.ended_at is null);
    end if;
    perform pg_notify('defib_suspicion', left(order_restart.workspace_id, 512));
    return order_id;
end
$$;
comment on function defib.order_restart(text, text, text, boolean) is
    'Orders a restart, whatever the verdict is, and returns the order (the standing one, if there is one). The owner of the engine carries it out; a hold and a status that is not watched refuse it unless force. The login is recorded.';

create function defib.order_storm_end(engine text, reason text, ordered_by text default null) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    insert into defib.orders (kind, engine, reason, ordered_by, login)
    values ('storm_end', order_storm_end.engine, defib.visible(order_storm_end.reason, 1000),
            coalesce(nullif(defib.visible(order_storm_end.ordered_by, 100), ''), session_user), session_user)
    returning id
$$;
comment on function defib.order_storm_end(text, text, text) is
    'Orders the end of the storm on an engine (null: of the fleet''s), and returns the order. The login is recorded.';

create function defib.order_state(order_id bigint)
returns table (taken_by text, done boolean, answer text, restart_id bigint, outcome text, error text, owner text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select o.taken_by, o.done, o.answer, o.restart_id, r.outcome, r.error,
           (select l.holder from defib.leases l
             where l.expires_at > clock_timestamp()
               and l.engine = coalesce(o.engine, (select f.engine::text from defib.fleet f
                                                   where f.workspace_id::text = o.workspace_id limit 1), l.engine)
             order by l.engine limit 1)
      from defib.orders o left join defib.restarts r on r.id = o.restart_id
     where o.id = order_state.order_id
$$;
comment on function defib.order_state(bigint) is 'What came of an order so far, and which replica owns the engine that it is about.';

create function defib.withdraw_order(order_id bigint) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update defib.orders o set ended_at = clock_timestamp(), done = false, answer = 'withdrawn: nobody had taken it'
     where o.id = withdraw_order.order_id and o.taken_at is null and o.ended_at is null;
    return found;
end
$$;
comment on function defib.withdraw_order(bigint) is 'Takes back an order that nobody has taken. False: it was taken, or has ended.';

create function defib.is_known(scope text, target text) returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select case is_known.scope
        when 'workspace' then exists (select from defib.fleet f where f.workspace_id::text = is_known.target)
        when 'engine' then exists (select from defib.leases l where l.engine = is_known.target)
            or exists (select from defib.replicas p where is_known.target = any (p.engines))
            or exists (select from defib.fleet f where f.engine::text = is_known.target)
        else true end
$$;
comment on function defib.is_known(text, text) is 'Whether there is such a workspace or engine: a misspelt name would hold nobody.';

-- Levenshtein's distance is an extension's, so this only narrows the choice: names of about that length, those with the most letters
-- in the same place, from either end, first.
create function defib.names_like(scope text, target text) returns setof text
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    with names(name) as (
        select f.workspace_id::text from defib.fleet f where names_like.scope = 'workspace'
        union
        select f.engine::text from defib.fleet f where names_like.scope = 'engine'
        union
        select l.engine from defib.leases l where names_like.scope = 'engine'
        union
        select unnest(p.engines) from defib.replicas p where names_like.scope = 'engine'),
    near as (
        select name, (select count(*) from generate_series(1, least(length(name), 64)) n
                       where substr(name, n, 1) = substr(names_like.target, n, 1)
                          or substr(reverse(name), n, 1) = substr(reverse(names_like.target), n, 1)) as alike
          from names where abs(length(name) - length(names_like.target)) <= 3)
    select name from near order by alike desc, name limit 100
$$;
comment on function defib.names_like(text, text) is 'Names of workspaces or engines that resemble one that does not exist.';
