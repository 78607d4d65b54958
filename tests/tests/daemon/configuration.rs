//! The configuration of `defib`, and the schemas that it may find.

use anyhow::{Result, ensure};
use defib_testkit::{PrivatePostgres, ScriptedEngine};
use defib_tests::{Finished, SOON, Stage, Workspace};

const PASSWORD: &str = "hunter2-and-more";

#[tokio::test]
async fn all_faults_are_printed_at_once_each_naming_its_variable() -> Result<()> {
    let stage = bare().await?;
    let stage = stage
        .knob("POLL_INTERVAL", "5 parsecs")
        .knob("DEAD_THRESHOLD", "1")
        .knob("STORM_FRACTION", "1.5")
        .knob("MODE", "yolo")
        .knob("ENGINES", "default=ftp://engine")
        .knob("LISTEN_ADDR", "everywhere")
        .knob("PROBE_SPACEING", "1s");
    let refused = refused(&stage, &["run"]).await?;
    for name in
        ["POLL_INTERVAL", "DEAD_THRESHOLD", "STORM_FRACTION", "MODE", "ENGINES", "LISTEN_ADDR", "PROBE_SPACEING"]
    {
        let lines = refused.stderr.lines().filter(|line| line.contains(&format!("DEFIB_{name}")));
        ensure!(lines.count() == 1, "DEFIB_{name} is not named in one line:\n{}", refused.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn knobs_that_cannot_go_together_are_refused() -> Result<()> {
    let stage = bare().await?.knob("RECENT_MIN", "2m").knob("RECENT_MAX", "1m").knob("BACKOFF_INITIAL", "10m");
    let refused = refused(&stage, &["run"]).await?;
    for name in ["DEFIB_RECENT_MIN", "DEFIB_BACKOFF_INITIAL"] {
        ensure!(refused.stderr.contains(name), "{name} is not named:\n{}", refused.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn the_database_must_be_named() -> Result<()> {
    let stage = bare().await?.knob("DATABASE_URL", "");
    let refused = refused(&stage, &["run"]).await?;
    ensure!(refused.stderr.contains("DEFIB_DATABASE_URL"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn a_flag_goes_over_the_environment() -> Result<()> {
    let stage = bare().await?.knob("POLL_INTERVAL", "1s");
    let refused = refused(&stage, &["run", "--poll-interval", "never"]).await?;
    ensure!(refused.stderr.contains("never"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn a_secret_is_never_printed_with_a_refusal() -> Result<()> {
    let with_password = format!("postgres://x:{PASSWORD}@127.0.0.1:1/none");
    // These are refused because of another knob, because of their own form, or because of what they would lead to.
    let broken = format!("postgres//x:{PASSWORD}@[::/db?sslmode=no");
    let stage = bare().await?.knob("DATABASE_URL", &with_password).knob("POLL_INTERVAL", "never");
    let other_knob = refused(&stage, &["run"]).await?;
    let form = refused(&bare().await?.knob("DATABASE_URL", &broken), &["run"]).await?;
    let unreachable = bare().await?.knob("DATABASE_URL", &with_password).defib(&["check"]).await?.with_code(1)?;
    for finished in [other_knob, form, unreachable] {
        let said = format!("{}{}", finished.stdout, finished.stderr);
        ensure!(!said.contains(PASSWORD), "the password is in {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_is_in_no_log() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::bare(PrivatePostgres::shared().await?, &engine.url()).await?;
    let with_password = stage.db.url().replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let stage = stage.knob("DATABASE_URL", &with_password).knob("LOG", "trace").knob("AUTO_MIGRATE", "true");
    let daemon = stage.run().await?;
    daemon.stop(SOON).await?;
    let log = daemon.program.transcript();
    ensure!(!log.contains(PASSWORD), "the password is in the log: {log}");
    Ok(())
}

#[tokio::test]
async fn a_secret_may_come_from_a_file() -> Result<()> {
    let stage = bare().await?;
    let file = std::env::temp_dir().join(format!("defib-secret-{}", std::process::id()));
    std::fs::write(&file, format!("{}\n", stage.db.url()))?;
    let path = file.display().to_string();
    let both = refused(&stage.knob("DATABASE_URL_FILE", &path), &["migrate"]).await?;
    ensure!(both.stderr.contains("DEFIB_DATABASE_URL_FILE"), "{}", both.stderr);

    let stage = bare().await?.knob("DATABASE_URL", "").knob("DATABASE_URL_FILE", &path);
    stage.defib(&["migrate"]).await?.with_code(0)?;
    std::fs::remove_file(&file)?;
    let gone = refused(&stage, &["migrate"]).await?;
    ensure!(gone.stderr.contains("DEFIB_DATABASE_URL_FILE"), "{}", gone.stderr);
    Ok(())
}

#[tokio::test]
async fn run_refuses_a_database_without_the_schema() -> Result<()> {
    let refused = refused(&bare().await?, &["run"]).await?;
    says_to_migrate(&refused)
}

#[tokio::test]
async fn run_refuses_an_older_schema() -> Result<()> {
    let stage = migrated().await?;
    let newest = "delete from defib.schema_version where version = (select max(version) from defib.schema_version)";
    stage.db.execute(newest).await?;
    says_to_migrate(&refused(&stage, &["run"]).await?)
}

#[tokio::test]
async fn run_refuses_a_schema_of_the_future() -> Result<()> {
    let stage = migrated().await?;
    stage.db.execute("insert into defib.schema_version (version, name) values (9999, 'to come')").await?;
    let refused = refused(&stage, &["run"]).await?;
    ensure!(refused.stderr.contains("9999"), "{}", refused.stderr);
    Ok(())
}

/// A dead workspace is marked `offline`. If that status is not watched, the workspace leaves the fleet when its first restart fails.
#[tokio::test]
async fn run_and_check_refuse_statuses_without_the_one_that_a_dead_workspace_is_given() -> Result<()> {
    let stage = migrated().await?.knob("WATCHED_STATUSES", "online,degraded");
    let start = refused(&stage, &["run"]).await?;
    let lines: Vec<&str> = start.stderr.lines().filter(|line| line.starts_with("defib: ")).collect();
    ensure!(
        lines.len() == 1 && lines[0].contains("DEFIB_WATCHED_STATUSES=online,degraded does not name offline"),
        "{}",
        start.stderr
    );
    let check = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(check.contains("FAIL  statuses: DEFIB_WATCHED_STATUSES=online,degraded does not name offline"), "{check}");
    Ok(())
}

/// The status that the platform's own function writes counts, and not the one that the shipped function writes.
#[tokio::test]
async fn the_status_that_must_be_watched_is_the_one_that_the_platforms_function_writes() -> Result<()> {
    let stage = migrated().await?;
    stage
        .db
        .execute(
            "create table public.agents (id text primary key, state text);
             insert into public.agents values ('a', 'up');
             create or replace view defib.fleet as
             select id as workspace_id, null::text as name, state as status, 'container' as kind, 'default' as engine,
                    null::text as container_ref, null::text as instance_ref, false as suspended,
                    null::timestamptz as last_heartbeat_at, null::timestamptz as last_activity_at, 0 as active_tasks,
                    null::timestamptz as created_at, null::jsonb as policy from public.agents;
             create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$ begin
                 update public.agents set state = 'down' where id = workspace_id and state = evidence ->> 'status';
                 return found;
             end $$",
        )
        .await?;
    let stage = stage.knob("WATCHED_STATUSES", "up,offline");
    let start = refused(&stage, &["run"]).await?;
    ensure!(start.stderr.contains("does not name down"), "{}", start.stderr);
    let check = stage.knob("WATCHED_STATUSES", "up,down").defib(&["check"]).await?.stdout;
    ensure!(check.contains("ok    statuses: defib.mark_dead writes down, which is watched"), "{check}");
    Ok(())
}

#[tokio::test]
async fn run_refuses_to_forget_what_the_back_off_needs() -> Result<()> {
    let refused = refused(&bare().await?.knob("RETENTION", "1h"), &["run"]).await?;
    ensure!(refused.stderr.contains("DEFIB_RETENTION=1h is shorter than 1h 10m"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn run_migrates_when_told_to() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::bare(PrivatePostgres::shared().await?, &engine.url()).await?.knob("AUTO_MIGRATE", "true");
    let daemon = stage.run().await?;
    ensure!(daemon.stop(SOON).await?.success(), "it does not end well");
    Ok(())
}

#[tokio::test]
async fn migrating_twice_is_migrating_once() -> Result<()> {
    let stage = migrated().await?;
    stage.db.add(Workspace::new("w1")).await?;
    let before = stage.db.count("select count(*) from defib.schema_version").await?;
    stage.defib(&["migrate"]).await?.with_code(0)?;
    ensure!(stage.db.count("select count(*) from defib.schema_version").await? == before, "migrated again");
    ensure!(stage.db.status("w1").await? == "online", "what was there is lost");
    Ok(())
}

#[tokio::test]
async fn several_may_migrate_at_once() -> Result<()> {
    let stage = bare().await?;
    let migrate = || stage.defib(&["migrate"]);
    let (a, b, c, d) = tokio::try_join!(migrate(), migrate(), migrate(), migrate())?;
    for finished in [a, b, c, d] {
        finished.with_code(0)?;
    }
    let twice = "select count(*) - count(distinct version) from defib.schema_version";
    ensure!(stage.db.count(twice).await? == 0, "a migration was applied twice");
    ensure!(stage.db.count("select count(*) from defib.fleet").await? == 0, "there is a fleet already");
    Ok(())
}

/// Exit code 2, nothing on standard output, and no backtrace.
async fn refused(stage: &Stage, arguments: &[&str]) -> Result<Finished> {
    let finished = stage.defib(arguments).await?.with_code(2)?;
    ensure!(finished.stdout.is_empty(), "it printed {}", finished.stdout);
    ensure!(!finished.stderr.is_empty() && !finished.stderr.contains("panicked"), "it printed {}", finished.stderr);
    Ok(finished)
}

/// In one line beside those of the log.
fn says_to_migrate(refused: &Finished) -> Result<()> {
    let lines: Vec<&str> = refused.stderr.lines().filter(|line| line.starts_with("defib: ")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("defib migrate"), "{}", refused.stderr);
    Ok(())
}

/// A stage without the schema, and with an engine that is never asked.
async fn bare() -> Result<Stage> {
    Stage::bare(PrivatePostgres::shared().await?, "unix:///nowhere.sock").await
}

async fn migrated() -> Result<Stage> {
    let stage = bare().await?;
    stage.defib(&["migrate"]).await?.with_code(0)?;
    Ok(stage)
}
