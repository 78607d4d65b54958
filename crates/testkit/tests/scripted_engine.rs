//! The scripted engine, through bollard: each fault as a real client meets it.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, HealthStatusEnum};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder, RestartContainerOptions,
};
use defib_testkit::scripted_engine::{
    Call, ContainerState, EventFeed, Fault, FaultRule, Health, ScriptedContainer, ScriptedEngine,
};
use defib_testkit::{EngineHandle, eventually};
use futures_util::StreamExt;

const INSPECT: Option<InspectContainerOptions> = None;
const RESTART: Option<RestartContainerOptions> = None;
const SOON: Duration = Duration::from_secs(5);

async fn engine_with(names: &[&str]) -> Result<(ScriptedEngine, Docker)> {
    let engine = ScriptedEngine::start().await?;
    for name in names {
        engine.add(ScriptedContainer::running(*name).label("defib.workspace", *name));
    }
    let client = EngineHandle::connect(engine.url()).client().await?;
    engine.clear_calls();
    Ok((engine, client))
}

async fn list(client: &Docker) -> Result<Vec<ContainerSummary>, Error> {
    let filters = HashMap::from([("label", vec!["defib.workspace"])]);
    client.list_containers(Some(ListContainersOptionsBuilder::default().all(true).filters(&filters).build())).await
}

#[tokio::test]
async fn a_client_reads_the_state_that_was_set() -> Result<()> {
    let (engine, client) = engine_with(&["a"]).await?;
    engine.add(ScriptedContainer::running("not-ours"));
    engine.set_health("a", Health::Unhealthy)?;
    let listed = list(&client).await?;
    assert_eq!(listed.len(), 1, "the label filter is honoured");
    assert_eq!(listed[0].state, Some(ContainerSummaryStateEnum::RUNNING));
    assert_eq!(listed[0].status.as_deref(), Some("Up 2 minutes (unhealthy)"));

    let state = client.inspect_container("a", INSPECT).await?.state.unwrap();
    assert_eq!(state.health.unwrap().status, Some(HealthStatusEnum::UNHEALTHY));
    assert_eq!(state.finished_at.as_deref(), Some("0001-01-01T00:00:00Z"));
    assert!(humantime::parse_rfc3339(&state.started_at.unwrap())? <= SystemTime::now());

    engine.set_state("a", ContainerState::Exited { exit_code: 137, oom: true })?;
    let state = client.inspect_container("a", INSPECT).await?.state.unwrap();
    assert_eq!((state.status, state.exit_code), (Some(ContainerStateStatusEnum::EXITED), Some(137)));
    assert_eq!((state.oom_killed, state.pid), (Some(true), Some(0)));

    let identity = client.info().await?.id;
    engine.set_identity("another");
    assert_ne!(client.info().await?.id, identity);
    Ok(())
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() -> Result<()> {
    let engine = ScriptedEngine::start_unix().await?;
    engine.add(ScriptedContainer::running("a"));
    let handle = EngineHandle::connect(engine.url());
    assert!(handle.is_running("a").await?);
    engine.refuse_connections(true).await?;
    assert!(handle.is_running("a").await.is_err());
    engine.refuse_connections(false).await?;
    assert!(handle.is_running("a").await?);
    Ok(())
}

#[tokio::test]
async fn an_unknown_container_is_a_typed_404() -> Result<()> {
    let (_engine, client) = engine_with(&[]).await?;
    match client.inspect_container("gone", INSPECT).await {
        Err(Error::DockerResponseServerError { status_code: 404, message }) => {
            assert_eq!(message, "No such container: gone");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_is_a_new_incarnation_with_the_events_of_dockerd() -> Result<()> {
    let (engine, client) = engine_with(&["a"]).await?;
    let mut events = client.events(Some(EventsOptionsBuilder::default().build()));
    let next =
        tokio::spawn(async move { events.by_ref().take(5).map(|event| event.unwrap()).collect::<Vec<_>>().await });
    eventually(SOON, "the stream is open", async || match engine.event_listeners() {
        1 => Ok(()),
        n => Err(format!("{n} listeners")),
    })
    .await?;
    let before = engine.container("a").unwrap();
    client.restart_container("a", RESTART).await?;
    let after = engine.container("a").unwrap();
    assert!(after.started_at > before.started_at && after.pid != before.pid);
    assert_eq!(engine.restarts_of("a"), 1);

    let events = next.await?;
    let actions: Vec<_> = events.iter().map(|event| event.action.as_deref().unwrap_or_default()).collect();
    assert_eq!(actions, ["kill", "die", "stop", "start", "restart"]);
    let died = events[1].actor.as_ref().unwrap().attributes.as_ref().unwrap();
    assert_eq!((died["exitCode"].as_str(), died["defib.workspace"].as_str()), ("143", "a"));
    assert_eq!(events[1].actor.as_ref().unwrap().id.as_deref(), Some("a"));
    Ok(())
}

#[tokio::test]
async fn each_broken_answer_is_an_error_and_nothing_else() -> Result<()> {
    let faults = [
        Fault::server_error("the daemon is on fire"),
        Fault::Garbage(b"<html>proxy</html>".as_slice().into()),
        Fault::Garbage(b"[{\"Id\": \"a\", \"State\": \"confused\"}]".as_slice().into()),
        Fault::Eof,
        Fault::Truncated,
    ];
    let (engine, client) = engine_with(&["a"]).await?;
    for fault in faults {
        engine.add_fault(FaultRule::new(Call::List, fault.clone()).times(1));
        let broken = list(&client).await;
        assert!(broken.is_err(), "{fault:?}: {broken:?}");
        assert_eq!(list(&client).await?.len(), 1, "right again after {fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_fault_about_one_container_spares_the_others() -> Result<()> {
    let (engine, client) = engine_with(&["a", "b"]).await?;
    engine.add_fault(FaultRule::new(Call::Inspect, Fault::Hang).container("a"));
    let hanging = tokio::time::timeout(Duration::from_millis(100), client.inspect_container("a", INSPECT)).await;
    assert!(hanging.is_err());
    client.inspect_container("b", INSPECT).await?;
    engine.clear_faults();
    client.inspect_container("a", INSPECT).await?;
    Ok(())
}

#[tokio::test]
async fn a_lie_is_told_alike_by_list_and_inspect() -> Result<()> {
    let (engine, client) = engine_with(&["a", "b"]).await?;
    engine.lie_about("a", &Fault::FalselyStopped);
    engine.lie_about("b", &Fault::FalselyMissing);
    let listed = list(&client).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, Some(ContainerSummaryStateEnum::EXITED));
    assert!(!client.inspect_container("a", INSPECT).await?.state.unwrap().running.unwrap());
    assert!(client.inspect_container("b", INSPECT).await.is_err());
    assert_eq!(engine.container("a").unwrap().state, ContainerState::Running, "the truth");

    engine.clear_faults();
    engine.set_fault(Call::List, Fault::FalselyMissing);
    assert!(list(&client).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_restart_whose_answer_is_lost_was_carried_out() -> Result<()> {
    let (engine, client) = engine_with(&["a", "b", "c"]).await?;
    engine.add_fault(FaultRule::new(Call::Restart, Fault::DoneThenEof).container("a"));
    engine.add_fault(FaultRule::new(Call::Restart, Fault::Delay(Duration::from_millis(100))).container("b"));
    engine.add_fault(FaultRule::new(Call::Restart, Fault::Eof).container("c"));
    let pids = || ["a", "b", "c"].map(|id| engine.container(id).unwrap().pid);
    let before = pids();
    assert!(client.restart_container("a", RESTART).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(30), client.restart_container("b", RESTART)).await.is_err());
    assert!(client.restart_container("c", RESTART).await.is_err());
    assert_ne!(pids()[0], before[0]);
    assert_eq!(pids()[2], before[2], "not carried out");
    eventually(SOON, "the abandoned restart is carried out", async || {
        if pids()[1] == before[1] { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await?;
    assert_eq!(engine.restarts(), 3);
    Ok(())
}

#[tokio::test]
async fn refused_connections_come_back_on_the_same_address() -> Result<()> {
    let (engine, client) = engine_with(&["a"]).await?;
    let mut events = client.events(Some(EventsOptionsBuilder::default().build()));
    let first = tokio::spawn(async move { events.next().await });
    eventually(SOON, "the stream is open", async || match engine.event_listeners() {
        1 => Ok(()),
        n => Err(format!("{n} listeners")),
    })
    .await?;
    engine.refuse_connections(true).await?;
    assert!(client.ping().await.is_err());
    assert!(!matches!(first.await?, Some(Ok(_))), "open streams are lost too");
    engine.refuse_connections(false).await?;
    assert_eq!(list(&client).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_silent_feed_stays_open_and_a_refused_one_ends() -> Result<()> {
    let (engine, client) = engine_with(&["a"]).await?;
    engine.set_event_feed(EventFeed::Silent);
    let mut events = client.events(Some(EventsOptionsBuilder::default().build()));
    assert!(tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_err());
    engine.exit("a", 1)?;
    assert!(tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_err());
    engine.set_event_feed(EventFeed::Refused);
    assert!(events.next().await.is_none());
    let mut refused = client.events(Some(EventsOptionsBuilder::default().build()));
    assert!(matches!(refused.next().await, Some(Err(_))));

    engine.set_event_feed(EventFeed::Flowing);
    let mut past = client.events(Some(EventsOptionsBuilder::default().since("1").build()));
    assert_eq!(past.next().await.unwrap()?.action.as_deref(), Some("die"), "the past is remembered, as by dockerd");
    Ok(())
}

#[tokio::test]
async fn two_thousand_containers_are_listed_whole() -> Result<()> {
    let (engine, client) = engine_with(&[]).await?;
    for number in 0..2000 {
        engine.add(ScriptedContainer::running(format!("c{number}")).label("defib.workspace", number.to_string()));
    }
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(list(&client).await?.len(), 2000);
        println!("a list of 2,000 took {:?}", start.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn a_container_that_dies_again_ends_the_life_that_was_started_and_no_other() -> Result<()> {
    let (engine, client) = engine_with(&["a"]).await?;
    engine.exit("a", 137)?;
    let soon_after = Duration::from_millis(300);
    engine.add_fault(FaultRule::new(Call::Start, Fault::DoneThenExit(soon_after, 7)).times(2));
    client.start_container("a", None).await?;
    assert_eq!(engine.starts_of("a"), 1, "it was answered, and started");
    let exits = async || match engine.container("a").map(|container| container.state) {
        Some(ContainerState::Exited { exit_code: 7, .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually(SOON, "it exits again", exits).await?;

    client.start_container("a", None).await?;
    engine.set_state("a", ContainerState::Exited { exit_code: 0, oom: false })?;
    client.start_container("a", None).await?;
    tokio::time::sleep(2 * soon_after).await;
    assert_eq!(engine.container("a").map(|container| container.state), Some(ContainerState::Running), "a later life");
    Ok(())
}

#[tokio::test]
async fn a_health_check_tells_when_it_ended_and_how_often_it_is_made() -> Result<()> {
    let (engine, client) = engine_with(&[]).await?;
    let ended_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let checked = ScriptedContainer::running("a").health(Health::Unhealthy);
    engine.add(checked.health_check(ended_at, Duration::from_secs(300)));
    let told = client.inspect_container("a", INSPECT).await?;
    let log = told.state.and_then(|state| state.health).and_then(|health| health.log).unwrap();
    assert_eq!((log[0].end.as_deref(), log[0].exit_code), (Some("2023-11-14T22:13:20.000000000Z"), Some(1)));
    let interval = told.config.and_then(|config| config.healthcheck).and_then(|check| check.interval);
    assert_eq!(interval, Some(300_000_000_000));
    Ok(())
}
