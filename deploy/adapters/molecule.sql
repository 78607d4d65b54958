-- Adapter: defib over the tables of molecule-core, or of a platform like it.
--
-- It replaces the view and the functions that read or write `defib.workspaces`; that table stays, unused. Run it after
-- `defib migrate`, by the role that owns schema defib and may read and update the platform's table:
--
--     psql "$DATABASE_URL" --single-transaction -v ON_ERROR_STOP=1 -f molecule.sql
--
-- It may be run again at any time. `defib migrate` never undoes it. Undo it by the same objects of migrations/0001_fleet.sql.
--
-- Expected: a table public.workspaces (id uuid primary key, name, status an enum or text, parent_id uuid, runtime text,
-- last_heartbeat_at, active_tasks, created_at, updated_at). Lines to adapt are marked ADAPT.

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

create or replace view defib.fleet as
select w.id::text as workspace_id,
       w.name::text as name,
       w.status::text as status, -- an enum there; it has no meaning to defib beyond its text
       case when w.runtime::text = 'external' then 'external' else 'container' end as kind, -- ADAPT: what has no container
       'default'::text as engine, -- ADAPT: which engine of DEFIB_ENGINES runs it
       'ws-' || left(w.id::text, 12) as container_ref, -- ADAPT: the container's name, made from the first 12 of the id
       null::text as instance_ref,
       defib.is_parked(w.status::text)
           or (w.parent_id is not null and w.id::text in (select id from defib.below_parked() as below(id))) as suspended,
       w.last_heartbeat_at::timestamptz as last_heartbeat_at,
       null::timestamptz as last_activity_at, -- ADAPT: the last successful round trip, where that is kept
       w.active_tasks::integer as active_tasks,
       w.created_at::timestamptz as created_at,
       null::jsonb as policy
  from public.workspaces w;

-- The daemon looks single workspaces up by the text of their id. Not on anything that a heartbeat changes: heartbeats stay HOT.
create index if not exists workspaces_id_text on public.workspaces ((id::text));
-- From a parked parent to its children. Most platforms have one already; then this line can go.
create index if not exists workspaces_parent_id_defib on public.workspaces (parent_id) where parent_id is not null;

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
    select w.id, w.status::text as status, w.parent_id, w.last_heartbeat_at into found_row
      from public.workspaces w where w.id::text = mark_dead.workspace_id for no key update;
    if not found
       or defib.is_parked(found_row.status)
       or (evidence ? 'status' and found_row.status is distinct from evidence ->> 'status')
       or defib.has_advanced(found_row.last_heartbeat_at, evidence ->> 'last_heartbeat_at') then
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

    -- The bare literals take the type of the column, text or enum.
    update public.workspaces w set status = 'offline', updated_at = now()
     where w.id = found_row.id and w.status in ('online', 'degraded');
    return true;
end
$$;

create or replace function defib.mark_recovered(workspace_id text, evidence jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.workspaces w set status = 'online', updated_at = now()
     where w.id::text = mark_recovered.workspace_id and w.status = 'offline';
    return found;
end
$$;
