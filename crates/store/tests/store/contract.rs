//! What `check` finds in a view and in functions that somebody else wrote.

use defib_store::{Answer, Breach, ContractFacts, Question, Trial};

use crate::adapter::{FAMILY, STATUS_TYPES, WORKER};
use crate::fixture::{Fixture, watched};

async fn facts(fixture: &Fixture) -> ContractFacts {
    fixture.store.check_contract(&watched()).await.unwrap()
}

fn answer(facts: &ContractFacts, question: Question) -> Option<&Answer> {
    facts.trials.iter().find(|trial| trial.question == question).map(|trial| &trial.answer)
}

/// A fleet about which every question can be asked.
async fn fleet() -> Fixture {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, status, last_heartbeat_at, last_activity_at) values
                ('lives', 'online', now(), now()), ('sleeps', 'paused', now(), null), ('is new', 'online', null, null)",
        )
        .await;
    fixture
}

fn is_right(trial: &Trial) -> bool {
    trial.answer == if trial.question.wants_true() { Answer::Agreed } else { Answer::Veto }
}

#[tokio::test]
async fn a_function_that_ships_beside_a_view_of_other_tables_is_found() {
    let fixture = fleet().await;
    let kept = |breaches: &[Breach]| breaches.iter().all(|breach| !matches!(breach, Breach::ShippedFunction { .. }));
    // The fleet is read through another view here, and still comes from defib's own table.
    fixture.run("create view public.between as select * from defib.workspaces").await;
    let through = |table: &str| {
        format!(
            "create or replace view defib.fleet as
             select id as workspace_id, name, status, kind, engine, container_ref, instance_ref, false as suspended,
                    last_heartbeat_at, last_activity_at, active_tasks, created_at, policy from {table}"
        )
    };
    fixture.run(&through("public.between")).await;
    assert!(kept(&facts(&fixture).await.breaches));
    fixture.run("create table public.agents as select * from defib.workspaces").await;
    fixture.run(&through("public.agents")).await;
    let found = facts(&fixture).await;
    let strangers = ["mark_dead", "mark_recovered"]
        .map(|name| Breach::ShippedFunction { function: format!("defib.{name}(text, jsonb)") });
    assert_eq!(found.breaches, strangers);
}

#[tokio::test]
async fn what_comes_with_defib_keeps_the_contract_and_leaves_no_trace() {
    let fixture = fleet().await;
    let before =
        fixture.text("select string_agg(w::text || xmin::text, ', ' order by id) from defib.workspaces w").await;
    let found = facts(&fixture).await;
    assert_eq!(found.breaches, []);
    let asked: Vec<_> = found.trials.iter().map(|trial| (trial.question, trial.workspace.as_str())).collect();
    let nobody = asked[0].1;
    assert_eq!(
        asked,
        [
            (Question::DeadUnknown, nobody),
            (Question::RecoveredUnknown, nobody),
            (Question::OtherStatus, "lives"),
            (Question::LaterHeartbeat, "lives"),
            (Question::LaterActivity, "lives"),
            (Question::Suspended, "sleeps"),
            (Question::Fitting, "is new"),
        ]
    );
    assert!(found.trials.iter().all(is_right), "{found:?}");
    let after =
        fixture.text("select string_agg(w::text || xmin::text, ', ' order by id) from defib.workspaces w").await;
    assert_eq!(before, after);
}

#[tokio::test]
async fn the_adapter_that_ships_keeps_the_contract() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        fixture.run(FAMILY).await;
        fixture.run(&format!("update public.workspaces set status = 'paused' where id = '{WORKER}'")).await;
        fixture.run("update public.workspaces set last_outbound_at = now()").await;
        let found = facts(&fixture).await;
        assert_eq!(found.breaches, [], "{status_type:?}");
        assert!(found.trials.len() == 7 && found.trials.iter().all(is_right), "{found:?}");
    }
}

#[tokio::test]
async fn an_empty_fleet_is_asked_about_nobody() {
    let found = facts(&Fixture::new().await).await;
    assert_eq!((found.breaches.len(), found.trials.len()), (0, 2), "{found:?}");
}

#[tokio::test]
async fn a_column_that_is_missing_or_of_another_type_is_named() {
    let fixture = fleet().await;
    fixture
        .run(
            "drop view defib.fleet;
             create view defib.fleet as
             select id as workspace_id, name, status, kind, engine, container_ref, instance_ref, 'no'::text as suspended,
                    '{}'::jsonb as last_heartbeat_at, last_activity_at, array[1] as active_tasks, policy from defib.workspaces",
        )
        .await;
    let wrong = |column, found: &str, wanted| Breach::ColumnType { column, found: found.into(), wanted };
    let found = facts(&fixture).await;
    assert_eq!(
        found.breaches,
        [
            wrong("suspended", "text", "boolean"),
            wrong("last_heartbeat_at", "jsonb", "timestamptz"),
            wrong("active_tasks", "integer[]", "integer"),
            Breach::ColumnMissing { column: "created_at", wanted: "timestamptz" },
        ]
    );
    assert_eq!(found.trials.len(), 2, "a view that cannot be read has no rows to ask about: {found:?}");
}

#[tokio::test]
async fn types_that_can_be_cast_are_as_good() {
    let fixture = fleet().await;
    fixture
        .run(
            "drop view defib.fleet;
             create type word as enum ('online', 'paused');
             create view defib.fleet as
             select id::varchar(50) as workspace_id, name::char(9), status::text::word as status, kind::name, engine, container_ref,
                    instance_ref, status = 'paused' as suspended, last_heartbeat_at::timestamp, last_activity_at,
                    active_tasks::numeric, created_at::date, policy::json
               from defib.workspaces",
        )
        .await;
    assert_eq!(facts(&fixture).await.breaches, []);
}

#[tokio::test]
async fn a_view_that_is_none_or_stands_still_is_named() {
    let fixture = fleet().await;
    fixture
        .run("alter view defib.fleet rename to live; create materialized view defib.fleet as select * from defib.live")
        .await;
    assert_eq!(facts(&fixture).await.breaches, [Breach::MaterializedFleet]);
    fixture.run("drop materialized view defib.fleet").await;
    assert_eq!(facts(&fixture).await.breaches, [Breach::NoFleet]);
}

#[tokio::test]
async fn an_id_in_two_rows_is_found_whatever_their_statuses() {
    let fixture = fleet().await;
    fixture
        .run(
            "create or replace view defib.fleet as
             select id as workspace_id, name, status, kind, engine, container_ref, instance_ref, false as suspended, last_heartbeat_at,
                    last_activity_at, active_tasks, created_at, policy from defib.workspaces
             union all
             select 'lives', null, 'removed', 'container', 'default', null, null, true, null, null, 0, now(), null",
        )
        .await;
    assert_eq!(facts(&fixture).await.breaches, [Breach::Duplicates { ids: 1, example: "lives".into() }]);
}

const DEAD: &str = "defib.mark_dead(text, jsonb)";

/// `mark_dead` with this body, declared as it should be.
fn mark_dead(body: &str) -> String {
    format!(
        "create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
         language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$ begin {body}; end $$"
    )
}

#[tokio::test]
async fn a_function_that_is_declared_otherwise_is_named() {
    let function = || DEAD.to_owned();
    let path = |found: Option<&str>| Breach::SearchPath { function: function(), found: found.map(Into::into) };
    let cases: [(&str, Vec<Breach>); 8] = [
        (
            "drop function defib.mark_dead(text, jsonb)",
            vec![Breach::FunctionMissing { wanted: function(), others: vec![] }],
        ),
        (
            "drop function defib.mark_dead(text, jsonb);
             create function defib.mark_dead(uuid, json) returns boolean language sql as 'select false'",
            vec![Breach::FunctionMissing { wanted: function(), others: vec!["uuid, json".into()] }],
        ),
        (
            "drop function defib.mark_dead(text, jsonb);
             create function defib.mark_dead(text, jsonb) returns text language sql security definer
             set search_path = pg_catalog, pg_temp as $$ select 'no' $$; revoke all on function defib.mark_dead(text, jsonb) from public",
            vec![Breach::Returns { function: function(), found: "text".into(), wanted: "boolean" }],
        ),
        (
            "alter function defib.mark_dead(text, jsonb) stable",
            vec![Breach::NotVolatile { function: function() }],
        ),
        (
            "alter function defib.mark_dead(text, jsonb) security invoker",
            vec![Breach::RunsAsCaller { function: function() }],
        ),
        ("alter function defib.mark_dead(text, jsonb) reset search_path", vec![path(None)]),
        ("alter function defib.mark_dead(text, jsonb) set search_path = pg_catalog", vec![path(Some("pg_catalog"))]),
        ("grant execute on function defib.mark_dead(text, jsonb) to public", vec![Breach::Public { function: function() }]),
    ];
    for (change, expected) in cases {
        let fixture = fleet().await;
        fixture.run(change).await;
        assert_eq!(facts(&fixture).await.breaches, expected, "{change}");
    }
}

/// Helpers of an adapter too: whatever runs with its owner's rights.
#[tokio::test]
async fn every_function_that_runs_with_its_owners_rights_is_looked_at() {
    let fixture = fleet().await;
    fixture.run("create function defib.helper() returns int language sql security definer as 'select 1'").await;
    let function = || "defib.helper()".to_owned();
    let expected = [Breach::SearchPath { function: function(), found: None }, Breach::Public { function: function() }];
    assert_eq!(facts(&fixture).await.breaches, expected);
}

#[tokio::test]
async fn a_mark_dead_that_agrees_to_what_it_should_veto_is_caught_at_each() {
    let exists = "exists (select from defib.workspaces w where w.id = workspace_id)";
    let held = "exists (select from defib.workspaces w where w.id = workspace_id and w.status <> 'paused'";
    let same_status = "and w.status = evidence ->> 'status'";
    let same_beat = "and not defib.has_advanced(w.last_heartbeat_at, evidence ->> 'last_heartbeat_at')";
    let cases = [
        ("return true".to_owned(), Question::DeadUnknown),
        (format!("return {exists}"), Question::Suspended),
        (format!("return {held})"), Question::OtherStatus),
        (format!("return {held} {same_status})"), Question::LaterHeartbeat),
        (format!("return {held} {same_status} {same_beat})"), Question::LaterActivity),
    ];
    let fixture = fleet().await;
    for (body, caught) in cases {
        fixture.run(&mark_dead(&body)).await;
        let found = facts(&fixture).await;
        assert_eq!(answer(&found, caught), Some(&Answer::Agreed), "{body}");
    }
}

#[tokio::test]
async fn a_function_that_raises_or_does_not_say_is_told_in_its_own_words() {
    let fixture = fleet().await;
    fixture.run(&mark_dead("return exists (select from defib.workspaces where workspace_id::uuid is null)")).await;
    let raised = facts(&fixture).await;
    let Some(Answer::Raised(words)) = answer(&raised, Question::DeadUnknown) else { panic!("{raised:?}") };
    assert!(words.contains("invalid input syntax for type uuid"), "{words}");
    fixture.run(&mark_dead("return null")).await;
    assert_eq!(answer(&facts(&fixture).await, Question::DeadUnknown), Some(&Answer::Null));
}

/// Somebody pauses the workspace at that moment. That is no fault of the adapter, and the pause must not have to wait for the check.
#[tokio::test]
async fn a_row_that_is_locked_is_no_answer_and_what_agreed_is_undone() {
    let fixture = fleet().await;
    let platform = fixture.another().await;
    platform.batch_execute("begin; update defib.workspaces set status = 'paused' where id = 'lives'").await.unwrap();
    let found = facts(&fixture).await;
    for question in [Question::OtherStatus, Question::LaterHeartbeat, Question::LaterActivity] {
        assert_eq!(answer(&found, question), Some(&Answer::Locked), "{question:?}");
    }
    assert_eq!(answer(&found, Question::Suspended), Some(&Answer::Veto));
    platform.batch_execute("rollback").await.unwrap();

    fixture
        .run(&mark_dead("update defib.workspaces w set status = 'offline' where w.id = workspace_id; return true"))
        .await;
    assert_eq!(answer(&facts(&fixture).await, Question::Suspended), Some(&Answer::Agreed));
    assert_eq!(fixture.text("select count(*) from defib.workspaces where status = 'offline'").await, "0");
}

#[tokio::test]
async fn nothing_is_tried_where_nothing_can_be_written_or_called() {
    let fixture = fleet().await;
    let name = fixture.text("select current_database()").await;
    fixture.run(&format!("alter database {name} set default_transaction_read_only = on")).await;
    let reader = crate::fixture::store(&fixture.url);
    let found = reader.check_contract(&watched()).await.unwrap();
    assert_eq!((found.breaches.len(), found.trials.len()), (0, 0), "{found:?}");

    let fixture = fleet().await;
    let url = crate::privileges::login(&fixture, "defib_viewer").await;
    let found = crate::fixture::store(&url).check_contract(&watched()).await.unwrap();
    assert_eq!((found.breaches.len(), found.trials.len()), (0, 0), "{found:?}");
}
