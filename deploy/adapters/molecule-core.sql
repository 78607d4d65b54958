-- Adapter: defib over the tables of molecule-core. How one is written for any other platform: README.md beside this file.
--
-- It replaces the view and the functions that read or write `defib.workspaces`; that table stays, unused. Run it after
-- `defib migrate`, by the role that owns schema defib and may read and update the platform's tables:
--
--     psql "$DATABASE_URL" --single-transaction -v ON_ERROR_STOP=1 -f molecule-core.sql
--
-- It may be run again at any time, and `defib migrate` never undoes it. Undo it by the same objects of migrations/0001_fleet.sql.
--
-- Expected: public.workspaces (id uuid, name, status, runtime, parent_id, instance_id, last_heartbeat_at, last_outbound_at,
-- active_tasks, created_at, updated_at) and public.structure_events (event_type, workspace_id, payload, created_at). `status` may be
-- an enum or a text, and the enum need not have every word below: it is read as text wherever it is compared, because a literal that
-- the enum lacks ('hibernating', on many installations) would be an error. Lines to adapt are marked ADAPT.
--
-- Who restarts what (DEFIB_RESTART_BY), and which keys in Redis go with it: README.md beside this file, "molecule-core, the whole of it".
--
-- What its statuses mean here:
--   online, degraded, offline   watched (DEFIB_WATCHED_STATUSES). Only the first two are ever marked offline.
--   paused, hibernating, hibernated, removed   put away on purpose: never judged, restarted or marked, and nothing below them is.
--   provisioning                the platform is at work on it: never judged, restarted or marked, whatever is watched.
--   failed                      not watched: the platform gave it up, and a restart is its (or a person's) decision. Nothing looks at
--                               it, `defib status` shows it without a verdict, and it does not suspend what is below it. It is watched
--                               again once the platform gives it another status. DEFIB_WATCHED_STATUSES=…,failed would restart its
--                               stopped container, but nothing here would ever take the word `failed` away from it.
--   anything else               not watched.

-- So that the names below mean the same whatever search_path this session has.
set local search_path = pg_catalog, pg_temp;

-- Fails here, where somebody is looking, and not in the claim of the first death: bodies of functions are not checked when they
-- are made.
do $$
begin
    perform id, name, status::text, runtime::text, parent_id, instance_id, last_heartbeat_at, last_outbound_at, active_tasks,
            created_at, updated_at
       from public.workspaces limit 0;
    perform event_type, workspace_id, payload, created_at from public.structure_events limit 0;
end
$$;

-- Two indexes, neither on anything that a heartbeat changes: heartbeats stay HOT. Making one keeps heartbeats waiting, half a second
-- for a hundred thousand rows: on a larger table make them by these names beforehand, with `create index concurrently`.
-- The daemon looks single workspaces up by the text of their id.
create index if not exists workspaces_id_text on public.workspaces ((id::text));
-- From a parked parent to its children. ADAPT: the platform may have one on parent_id already; then this line can go.
create index if not exists workspaces_parent_id_defib on public.workspaces (parent_id) where parent_id is not null;

-- Every workspace below a parked one. See migrations/0001_fleet.sql for why it is a function and why it is set up so.
create or replace function defib.below_parked() returns setof text
language plpgsql stable security definer parallel restricted cost 10000 rows 1000
set search_path = pg_catalog, pg_temp set jit = off
    set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off
as $$
begin
    return query
        with recursive below(id) as (
            select child.id
              from public.workspaces parked join public.workspaces child on child.parent_id = parked.id
             where defib.is_parked(parked.status::text)
            union -- not `union all`: a cycle ends here
            select child.id
              from below join public.workspaces child on child.parent_id = below.id
        )
        select below.id::text from below;
end
$$;

-- The same for a single workspace, by a walk up from it. See migrations/0006_neighbours.sql for when which of the two is used.
create or replace function defib.has_parked_ancestor(parent_id text) returns boolean
language plpgsql stable security definer parallel restricted cost 200
set search_path = pg_catalog, pg_temp
as $$
declare
    above    text := has_parked_ancestor.parent_id;
    seen     text[] := '{}';
    ancestor record;
begin
    while above is not null and above <> all (seen) loop -- a cycle ends here
        select w.status::text as status, w.parent_id::text as parent_id into ancestor
          from public.workspaces w where w.id::text = above;
        exit when not found;
        if defib.is_parked(ancestor.status) then
            return true;
        end if;
        seen := seen || above;
        above := ancestor.parent_id;
    end loop;
    return false;
end
$$;

-- ADAPT: what has an instance. Tenants of the hosted platform are machines behind its control plane. They get an engine of their own,
-- `control-plane`: a Docker engine would find no such container, and what is missing is dead. While no engine of that name is in
-- DEFIB_ENGINES they are unknown, so nobody restarts or marks them, and `defib check` says so.
create or replace view defib.fleet as
select w.id::text as workspace_id,
       w.name::text as name,
       w.status::text as status,
       case when w.runtime::text = 'external' then 'external'
            when w.instance_id::text <> '' then 'instance'
            else 'container' end as kind, -- ADAPT: what has no container
       case when w.runtime::text is distinct from 'external' and w.instance_id::text <> '' then 'control-plane'
            else 'default' end as engine, -- ADAPT: which engine of DEFIB_ENGINES runs it
       case when w.runtime::text is distinct from 'external' and coalesce(w.instance_id::text, '') = ''
            then 'ws-' || left(w.id::text, 12) end as container_ref, -- ADAPT: the container's name; newer releases take the whole id
       nullif(w.instance_id::text, '') as instance_ref,
       defib.is_parked(w.status::text) or w.status::text = 'provisioning'
           or (w.parent_id is not null
               and case when current_setting('defib.walk', true) = 'up' then defib.has_parked_ancestor(w.parent_id::text)
                        else w.id::text in (select id from defib.below_parked() as below(id)) end) as suspended,
       w.last_heartbeat_at::timestamptz as last_heartbeat_at,
       w.last_outbound_at::timestamptz as last_activity_at, -- it spoke to another: only what lives does
       w.active_tasks::integer as active_tasks,
       w.created_at::timestamptz as created_at,
       null::jsonb as policy -- ADAPT: settings of single workspaces
  from public.workspaces w;

-- Locks, compares, vetoes. See migrations/0001_fleet.sql for the two kinds of lock.
create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row record;
    ancestor  record;
    above     uuid;
    seen      uuid[];
begin
    select w.id, w.status::text as status, w.parent_id, w.last_heartbeat_at, w.last_outbound_at into found_row
      from public.workspaces w where w.id::text = mark_dead.workspace_id for no key update;
    if not found
       or found_row.status = 'provisioning'
       or defib.is_parked(found_row.status)
       or (evidence ? 'status' and found_row.status is distinct from evidence ->> 'status')
       or defib.has_advanced(found_row.last_heartbeat_at, evidence ->> 'last_heartbeat_at')
       or defib.has_advanced(found_row.last_outbound_at, evidence ->> 'last_activity_at') then
        return false;
    end if;

    above := found_row.parent_id;
    seen := array[found_row.id];
    while above is not null and above <> all (seen) loop
        select w.status::text as status, w.parent_id into ancestor from public.workspaces w where w.id = above for share;
        exit when not found;
        if defib.is_parked(ancestor.status) then
            return false;
        end if;
        seen := seen || above;
        above := ancestor.parent_id;
    end loop;

    -- The literal that is written takes the type of the column, text or enum; the column that is compared becomes text.
    update public.workspaces w set status = 'offline', updated_at = now()
     where w.id = found_row.id and w.status::text in ('online', 'degraded');
    if found then
        insert into public.structure_events (event_type, workspace_id, payload, created_at)
        values ('WORKSPACE_OFFLINE', found_row.id,
                jsonb_strip_nulls(jsonb_build_object('source', 'defib', 'because', evidence -> 'because')), now());
    end if;
    return true;
end
$$;

create or replace function defib.mark_recovered(workspace_id text, evidence jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed uuid;
begin
    update public.workspaces w set status = 'online', updated_at = now()
     where w.id::text = mark_recovered.workspace_id and w.status::text = 'offline'
    returning w.id into changed;
    if changed is null then
        return false; -- the platform's own heartbeat handler was first, or somebody put it away since
    end if;
    insert into public.structure_events (event_type, workspace_id, payload, created_at)
    values ('WORKSPACE_ONLINE', changed,
            jsonb_strip_nulls(jsonb_build_object('source', 'defib', 'because', evidence -> 'because')), now());
    return true;
end
$$;

-- `create or replace` keeps the rights that `defib migrate` gave. These are for objects that were dropped and made anew.
revoke all on function defib.mark_dead(text, jsonb), defib.mark_recovered(text, jsonb), defib.below_parked(),
    defib.has_parked_ancestor(text) from public;
