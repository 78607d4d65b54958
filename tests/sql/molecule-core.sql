-- The tables of molecule-core as its adapter meets them, for tests. %status% is the type of the status: an enum, or text.

create table public.workspaces (
    id                uuid primary key default gen_random_uuid(),
    name              text not null,
    status            %status% not null default 'provisioning',
    runtime           text default 'langgraph',
    parent_id         uuid,
    instance_id       text,
    last_heartbeat_at timestamptz,
    last_outbound_at  timestamptz,
    active_tasks      integer not null default 0,
    created_at        timestamptz not null default now() - interval '1 day',
    updated_at        timestamptz not null default now()
);
create index idx_workspaces_parent on public.workspaces (parent_id);
create index idx_workspaces_status on public.workspaces (status);

create table public.structure_events (
    id           uuid primary key default gen_random_uuid(),
    event_type   text not null,
    workspace_id uuid references public.workspaces (id) on delete set null,
    payload      jsonb not null default '{}',
    created_at   timestamptz not null default now()
);
