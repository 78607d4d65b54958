//! Functions that run with their owner's rights, called by somebody who puts things in their way: a schema of its own at the front of
//! `search_path`, with functions and operators by the names that they use, and tables and types of its session, which come before
//! everything unless `pg_temp` is named. Each of them is noticed when it is used.

use crate::adapter::{ADAPTER, BOSS, WORKER};
use crate::fixture::Fixture;
use crate::privileges::adapted_with;

const FUNCTIONS: [&str; 14] = [
    "now() returns timestamptz",
    "clock_timestamp() returns timestamptz",
    "left(text, integer) returns text",
    "ascii(text) returns integer",
    "lpad(text, integer, text) returns text",
    "to_hex(integer) returns text",
    "string_to_array(text, text) returns text[]",
    "pg_notify(text, text) returns void",
    "jsonb_strip_nulls(jsonb) returns jsonb",
    "is_parked(text) returns boolean",
    "visible(text, integer) returns text",
    "has_advanced(timestamptz, text) returns boolean",
    "below_parked() returns setof text",
    "has_parked_ancestor(text) returns boolean",
];

/// Operator, left, right, result. The exact types, so that they would win where Postgres' own are polymorphic.
const OPERATORS: [[&str; 4]; 12] = [
    ["=", "text", "text", "boolean"],
    ["<>", "text", "text", "boolean"],
    ["!~", "text", "text", "boolean"],
    ["||", "text", "text", "text"],
    ["=", "uuid", "uuid", "boolean"],
    ["<>", "uuid", "uuid", "boolean"],
    ["||", "uuid[]", "uuid", "uuid[]"],
    ["=", "public.workspace_status", "public.workspace_status", "boolean"],
    [">", "timestamptz", "timestamptz", "boolean"],
    ["?", "jsonb", "text", "boolean"],
    ["->", "jsonb", "text", "jsonb"],
    ["->>", "jsonb", "text", "text"],
];

/// `null::uuid` would pass the check of a domain, so a type is noticed by refusing every value.
const SESSION: &str = "
    create temp table workspaces (id text, status text);
    create temp table suspicions (workspace_id text, taken_at int);
    create temp table structure_events (event_type int);
    create domain pg_temp.uuid as text constraint hijacked check (false);
    create domain pg_temp.text as pg_catalog.text constraint hijacked check (false);
    create domain pg_temp.timestamptz as pg_catalog.text constraint hijacked check (false);
    create domain pg_temp.jsonb as pg_catalog.text constraint hijacked check (false);
    set search_path = hostile, pg_temp, pg_catalog, public";

async fn set_the_trap(owner: &Fixture) {
    owner.run("create schema hostile; grant usage on schema hostile to public").await;
    let body = "language plpgsql as $$ begin raise exception 'hijacked'; end $$";
    for signature in FUNCTIONS {
        owner.run(&format!("create function hostile.{signature} {body}")).await;
    }
    for (n, [operator, left, right, result]) in OPERATORS.iter().enumerate() {
        owner
            .run(&format!(
                "create function hostile.o{n}({left}, {right}) returns {result} {body};
                 create operator hostile.{operator} (leftarg = {left}, rightarg = {right}, function = hostile.o{n})"
            ))
            .await;
    }
}

/// Prepares the caller's session, and checks that each trap is noticed by a statement that looks names up in it.
async fn fall_in(caller: &Fixture) {
    caller.run(SESSION).await;
    for sql in [
        "select now()",
        "select 'a'::pg_catalog.text = 'b'::pg_catalog.text",
        "select left('a'::pg_catalog.text, 1)",
        "select '00000000-0000-0000-0000-000000000000'::uuid",
        "select 'a'::text",
    ] {
        let caught = caller.client.batch_execute(sql).await.expect_err(sql);
        assert!(crate::fixture::shown(&caught).contains("hijacked"), "{sql}: {caught:?}");
    }
}

/// Calls a function as the caller does. The statement itself names nothing that could be the caller's own.
async fn call(caller: &Fixture, function: &str) -> Result<Option<bool>, tokio_postgres::Error> {
    Ok(caller.client.query_one(&format!("select defib.{function}"), &[]).await?.get(0))
}

#[tokio::test]
async fn a_report_is_kept_as_it_was_said_whatever_the_callers_session_hides() {
    let (fixture, reporter) = adapted_with("defib_reporter").await;
    set_the_trap(&fixture).await;
    fall_in(&reporter).await;
    reporter.run(r"select defib.report_suspicion('w', E'proxy\x1b', 'refused', 502, 'x')").await;
    reporter.run("select defib.report_suspicion('w', 'proxy', 'refused')").await;
    let kept =
        "select string_agg(concat_ws(' ', workspace_id, reporter, reason, http_status, detail), ', ' order by id)
                  from defib.suspicions";
    assert_eq!(fixture.text(kept).await, r"w proxy\x1b refused 502 x, w proxy refused");
}

#[tokio::test]
async fn the_adapters_functions_do_the_same_whatever_the_callers_session_hides() {
    let (fixture, daemon) = adapted_with("defib_daemon").await;
    let evidence = fixture.evidence(WORKER).await;
    set_the_trap(&fixture).await;
    fall_in(&daemon).await;
    let [dead, recovered] = ["mark_dead", "mark_recovered"].map(|name| format!("{name}('{WORKER}', '{evidence}')"));
    assert_eq!(call(&daemon, &dead).await.unwrap(), Some(true));
    assert_eq!(call(&daemon, &dead).await.unwrap(), Some(false), "another status than in the evidence");
    assert_eq!(call(&daemon, &recovered).await.unwrap(), Some(true));
    let told = "select string_agg(event_type, ' ' order by created_at) from public.structure_events";
    assert_eq!(fixture.text(told).await, "WORKSPACE_OFFLINE WORKSPACE_ONLINE");
    fixture.run("update public.workspaces set status = 'paused' where parent_id is null").await;
    assert_eq!(daemon.client.query("select defib.below_parked()", &[]).await.unwrap().len(), 2);
    let above = format!("has_parked_ancestor('{BOSS}')");
    assert_eq!(call(&daemon, &above).await.unwrap(), Some(true));
    assert_eq!(call(&daemon, &dead).await.unwrap(), Some(false), "below a paused one");
}

/// Whoever runs it may have any path; what it makes must not depend on that.
#[tokio::test]
async fn the_adapter_is_made_of_nothing_that_was_put_in_its_way() {
    let (fixture, _daemon) = adapted_with("defib_daemon").await;
    set_the_trap(&fixture).await;
    fixture.run("set search_path = hostile, pg_catalog, public").await;
    fixture.run(ADAPTER).await;
    fixture.run("reset search_path").await;
    fixture.run("drop schema hostile cascade").await;
    assert_eq!(fixture.fleet().await.len(), 3, "the view went with what it was made of");
}
