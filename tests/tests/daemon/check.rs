//! `defib check` on a fleet and on functions that somebody wrote in a hurry: each fault is named, and what to do about it.

use anyhow::{Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_tests::{Stage, Workspace, container};

#[tokio::test]
async fn workspaces_that_nobody_would_look_at_are_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    for id in ["stray", "too", "three", "four"] {
        stage.db.add(Workspace::new(id).engine("nosuch")).await?;
    }
    stage.db.add(Workspace::new("laptop").external().engine("nosuch")).await?;
    says(&stage, &["FAIL  fleet: 4 watched workspaces (four, stray, three, …) are on engine nosuch, which is not in DEFIB_ENGINES"]).await
}

#[tokio::test]
async fn instances_on_an_engine_for_containers_or_without_a_name_are_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.execute("insert into defib.workspaces (id, kind, engine) values ('a', 'instance', 'default'), ('b', 'instance', 'cloud')").await?;
    says(
        &stage,
        &[
            "FAIL  fleet: 1 watched instances (a) are on engine default, which has containers",
            "FAIL  fleet: 1 watched instances (b) are on engine cloud, which is not in DEFIB_ENGINES",
            "(cloud=cp+https://…)",
            "FAIL  fleet: 2 watched instances (a, b) have no instance_ref",
        ],
    )
    .await
}

/// `kind` is container where nobody says otherwise, so this is what a forgotten `instance` looks like.
#[tokio::test]
async fn containers_on_a_control_plane_and_names_that_no_engine_takes_are_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let stage = stage.engine("cloud", "cp+http://127.0.0.1:1?preset=generic").knob("ENGINE_TOKEN_CLOUD", "t");
    stage
        .db
        .execute("insert into defib.workspaces (id, engine, container_ref) values ('vm', 'cloud', null), ('odd', 'default', 'a/b?c')")
        .await?;
    says(
        &stage,
        &[
            "FAIL  fleet: 1 watched workspaces (vm) are of kind container, which is the default, on engine cloud, which is a control plane",
            "FAIL  engine default: 1 of its 2 watched workspaces cannot be told to run or not (odd; the first because of",
        ],
    )
    .await
}

#[tokio::test]
async fn a_container_of_several_workspaces_is_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage
        .db
        .execute(
            "insert into defib.workspaces (id, status, engine, container_ref) values
                ('a', 'online', 'default', 'agent'), ('b', 'online', 'default', '/agent'),
                ('elsewhere', 'online', 'other', 'agent'), ('gone', 'removed', 'default', 'agent')",
        )
        .await?;
    let stage = stage.engine("other", "unix:///nowhere.sock");
    says(
        &stage,
        &[
            "FAIL  fleet: 2 watched workspaces (a, b) say that agent on engine default is theirs",
            "Correct container_ref",
        ],
    )
    .await
}

#[tokio::test]
async fn rows_that_cannot_be_judged_are_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage
        .db
        .execute("alter table defib.workspaces drop constraint workspaces_kind_check, alter column kind drop not null")
        .await?;
    stage
        .db
        .execute("insert into defib.workspaces (id, kind) values ('pod', 'pod'), ('odd', null); update defib.workspaces set created_at = 'infinity' where id = 'w1'")
        .await?;
    says(
        &stage,
        &[
            "FAIL  fleet: 1 watched row(s) are not judged: kind is none of container, instance, external (pod)",
            "FAIL  fleet: 1 watched row(s) are not judged: kind is null (odd)",
            "FAIL  fleet: 1 watched row(s) are not judged: created_at is infinite (w1)",
        ],
    )
    .await
}

#[tokio::test]
async fn words_that_are_not_the_platforms_are_pointed_out() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let said = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    ensure!(said.contains("1 of 1 workspaces have a watched status (none is degraded or offline)"), "{said}");
    stage.db.set_status("w1", "Online").await?;
    says(
        &stage,
        &[
            "FAIL  fleet: 0 of 1 workspaces",
            "so nobody is judged. DEFIB_WATCHED_STATUSES is online,degraded,offline, the fleet has 1 Online",
            "1 workspaces are `Online`, and watched is `online`",
        ],
    )
    .await
}

/// The view with another expression for each column that is named.
fn view(changes: &[(&str, &str)]) -> String {
    let columns = [
        "workspace_id",
        "name",
        "status",
        "kind",
        "engine",
        "container_ref",
        "instance_ref",
        "suspended",
        "last_heartbeat_at",
        "last_activity_at",
        "active_tasks",
        "created_at",
        "policy",
    ];
    let selected: Vec<String> = columns
        .iter()
        .filter_map(|column| {
            let usual = match *column {
                "workspace_id" => "id",
                "suspended" => "false",
                other => other,
            };
            let expression =
                changes.iter().find(|(changed, _)| changed == column).map_or(usual, |(_, expression)| expression);
            (!expression.is_empty()).then(|| format!("{expression} as {column}"))
        })
        .collect();
    format!("drop view defib.fleet; create view defib.fleet as select {} from defib.workspaces", selected.join(", "))
}

#[tokio::test]
async fn a_view_that_breaks_the_contract_is_told_column_by_column() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.execute(&view(&[("policy", ""), ("last_heartbeat_at", "array[now()]")])).await?;
    says(
        &stage,
        &[
            "FAIL  fleet: defib.fleet has no column policy (jsonb). Add it to the view",
            "FAIL  fleet: column last_heartbeat_at of defib.fleet is timestamp with time zone[], which cannot be cast to timestamptz",
        ],
    )
    .await
}

#[tokio::test]
async fn a_value_that_only_the_daemon_would_stumble_over_is_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.execute(&view(&[("active_tasks", "'many'::text")])).await?;
    says(
        &stage,
        &["FAIL  fleet: the daemon cannot read it, so nobody is judged", "invalid input syntax for type bigint"],
    )
    .await
}

#[tokio::test]
async fn an_id_in_several_rows_and_a_view_that_stands_still_are_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.execute("alter view defib.fleet rename to once").await?;
    stage
        .db
        .execute(
            "create materialized view defib.fleet as select once.* from defib.once cross join generate_series(1, 2)",
        )
        .await?;
    says(
        &stage,
        &[
            "FAIL  fleet: defib.fleet is a materialized view",
            "FAIL  fleet: 1 watched row(s) are not judged: workspace_id is in more than one row (w1)",
        ],
    )
    .await?;

    stage.db.execute("drop materialized view defib.fleet; alter view defib.once rename to fleet").await?;
    stage.db.execute(&format!("{} cross join generate_series(1, 2)", view(&[]))).await?;
    says(&stage, &["FAIL  fleet: 1 workspace_id(s) are in more than one row of defib.fleet, w1 for one"]).await?;
    stage.db.execute("drop view defib.fleet").await?;
    says(&stage, &["FAIL  fleet: there is no view defib.fleet. Run your adapter again"]).await
}

#[tokio::test]
async fn functions_that_are_declared_otherwise_are_told_one_by_one() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let cases = [
        (
            "alter function defib.mark_dead(text, jsonb) security invoker",
            "defib.mark_dead(text, jsonb) is not SECURITY DEFINER",
        ),
        (
            "alter function defib.mark_dead(text, jsonb) security definer reset search_path",
            "its caller chooses where it looks names up (search_path: the caller's)",
        ),
        ("alter function defib.mark_dead(text, jsonb) set search_path = public", "(search_path: public)"),
        (
            "alter function defib.mark_dead(text, jsonb) set search_path = pg_catalog, pg_temp immutable",
            "is declared stable or immutable",
        ),
        (
            "alter function defib.mark_dead(text, jsonb) volatile; grant execute on function defib.mark_dead(text, jsonb) to public",
            "everybody may call it",
        ),
        (
            "drop function defib.mark_recovered(text, jsonb)",
            "defib.mark_recovered(text, jsonb) does not exist. Run your adapter again",
        ),
        (
            "create function defib.mark_recovered(uuid) returns boolean language sql as 'select false'",
            "does not exist, only the same with (uuid)",
        ),
        (
            "create function defib.mark_recovered(text, jsonb) returns text language sql as 'select null'",
            "defib.mark_recovered(text, jsonb) returns text, and not boolean",
        ),
    ];
    for (change, told) in cases {
        stage.db.execute(change).await?;
        says(&stage, &["FAIL  functions: ", told]).await?;
    }
    Ok(())
}

/// Replaces `mark_dead`. Its rights stay.
async fn mark_dead(stage: &Stage, body: &str) -> Result<()> {
    let sql = format!(
        "create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
         language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$ begin {body}; end $$"
    );
    stage.db.execute(&sql).await
}

#[tokio::test]
async fn a_mark_dead_that_does_not_veto_is_told_what_it_forgot() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.execute("update defib.workspaces set last_activity_at = now()").await?;
    stage.db.add(Workspace::new("sleeps").status("paused")).await?;
    mark_dead(&stage, "update defib.workspaces w set status = 'offline' where w.id = workspace_id; return true")
        .await?;
    says(
        &stage,
        &[
            "FAIL  functions: defib.mark_dead answers true for a workspace that does not exist: return false",
            "answers true for w1 on evidence with another status: compare `status`",
            "answers true for w1 on evidence older than its heartbeat: compare `last_heartbeat_at`",
            "answers true for w1 on evidence older than its activity: compare `last_activity_at`",
            "answers true for sleeps, which defib.fleet calls suspended: veto",
        ],
    )
    .await?;
    ensure!(
        stage.db.status("w1").await? == "online" && stage.db.status("sleeps").await? == "paused",
        "a trial left a trace"
    );

    mark_dead(&stage, "return null").await?;
    says(&stage, &["defib.mark_dead answers null for a workspace that does not exist"]).await?;
    mark_dead(&stage, "return workspace_id::uuid is null").await?;
    says(&stage, &["defib.mark_dead raises for a workspace that does not exist", "Compare ids as text"]).await
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_is_a_note_and_no_fault() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let platform = stage.db.another_connection().await?;
    platform.batch_execute("begin; select from defib.workspaces for update").await?;
    let said = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    ensure!(
        said.contains("note  functions: 3 questions to defib.mark_dead got no answer: the row of w1 stayed locked"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn rows_without_a_container_and_containers_without_a_row_are_found() -> Result<()> {
    let (stage, engine) = stage().await?;
    let well = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    ensure!(well.contains("each of its 1 watched workspace has a container") && well.contains("all is well"), "{well}");
    engine.add(container("stray"));
    let strays = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    ensure!(
        strays.contains("warn  engine default: 1 container carries the label defib.workspace with an id that defib.fleet does not have (stray of")
            && strays.contains("nothing fails, 1 warning"),
        "{strays}"
    );
    stage.defib(&["check", "--strict"]).await?.with_code(1)?;
    for id in ["w2", "w3", "w4", "w5"] {
        stage.db.add(Workspace::new(id)).await?;
    }
    says(
        &stage,
        &["FAIL  engine default: 4 of its 5 watched workspaces have no container (w2, w3, w4, …): they are dead"],
    )
    .await?;
    let elsewhere = ScriptedEngine::start().await?;
    elsewhere.add(container("w2"));
    let stage = stage.engine("other", &elsewhere.url());
    says(&stage, &["FAIL  engine default: 1 watched workspace (w2) have their container on engine other"]).await?;
    let stage = stage.knob("WORKSPACE_LABEL", "no.such.label");
    says(&stage, &["FAIL  engine default: no container carries the label no.such.label, by which 5 watched workspaces would be found"]).await
}

#[tokio::test]
async fn a_view_that_was_replaced_without_its_functions_is_found() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage
        .db
        .execute(
            "create table public.agents as select * from defib.workspaces;
             create or replace view defib.fleet as
             select id as workspace_id, name, status, kind, engine, container_ref, instance_ref, false as suspended,
                    last_heartbeat_at, last_activity_at, active_tasks, created_at, policy from public.agents;
             delete from defib.workspaces",
        )
        .await?;
    says(
        &stage,
        &[
            "FAIL  functions: defib.fleet is about tables of the platform, and defib.mark_dead(text, jsonb) still is the one that ships with defib",
            "It vetoes every restart, so the dead stay dead.",
            "defib.mark_dead answers false for w1 on evidence that fits its row, so every restart would be vetoed",
        ],
    )
    .await
}

#[tokio::test]
async fn what_is_hardly_meant_so_is_a_warning() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.execute("update defib.workspaces set policy = '{\"treshold\": 3}'").await?;
    let stage = stage.knob("MODE", "observe");
    let said = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    for part in [
        "warn  policy: not used for 1 workspace (w1): policy treshold is not a setting of a workspace",
        "warn  mode: DEFIB_MODE=observe",
        "agreed to the one that it should agree to",
        "nothing fails, 2 warnings",
    ] {
        ensure!(said.contains(part), "no {part:?} in:\n{said}");
    }
    stage.defib(&["check", "--strict"]).await?.with_code(1)?;
    Ok(())
}

/// A check that fails, and says all of this.
async fn says(stage: &Stage, parts: &[&str]) -> Result<()> {
    let said = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    for part in parts {
        ensure!(said.contains(part), "no {part:?} in:\n{said}");
    }
    Ok(())
}

async fn stage() -> Result<(Stage, ScriptedEngine)> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    Ok((stage, engine))
}

/// `golden/<name>.txt` beside this file is all that a check printed. `UPDATE_GOLDEN=1` writes it anew; read the difference before you
/// commit it. What differs between machines (addresses, versions, limits, ages) is left out of it.
fn is_golden(name: &str, engine: &ScriptedEngine, said: &str) -> Result<()> {
    let machines = ["database: ", "files: ", "engine default: scripted "];
    let as_anywhere = |line: &str| match machines.iter().find_map(|what| line.split_once(what).zip(Some(what))) {
        Some(((weight, _), what)) => format!("{weight}{what}<as this machine has it>"),
        None => line.to_owned(),
    };
    // Whether the database has just started depends on which tests ran before this one.
    let lines: Vec<String> = said
        .replace(&engine.url(), "<engine>")
        .lines()
        .filter(|line| !line.contains("heartbeats: "))
        .map(as_anywhere)
        .collect();
    let said = format!("{}\n", lines.join("\n"));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/daemon/golden/{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &said)?;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(golden == said, "{name} is not as in {}, but:\n{said}", path.display());
    Ok(())
}

#[tokio::test]
async fn all_that_it_prints_is_as_it_was_read_and_approved() -> Result<()> {
    let (stage, engine) = stage().await?;
    let well = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    is_golden("check-well", &engine, &well)?;
    for id in ["w2", "w3", "w4", "w5"] {
        stage.db.add(Workspace::new(id)).await?;
    }
    for id in ["stray", "too"] {
        stage.db.add(Workspace::new(id).engine("nosuch")).await?;
    }
    engine.add(container("nobodys"));
    let stage = stage.knob("MODE", "observe").knob("WATCHED_STATUSES", "online,onlin");
    let ill = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    is_golden("check-ill", &engine, &ill)
}
