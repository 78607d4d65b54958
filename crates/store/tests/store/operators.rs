//! What a login of role `defib_operator` can do through the functions, and what is recorded of it.

use defib_policy::attempt::Outcome;
use defib_policy::id::EngineName;
use defib_store::{HoldScope, NewHold, NewSuspicion, Ordered, OrderedBy};
use defib_testkit::postgres;

use crate::fixture::{Fixture, store};
use crate::privileges::login;

async fn world() -> (Fixture, Fixture) {
    let fixture = Fixture::new().await;
    fixture.workspace("w1").await;
    fixture.workspace("w2").await;
    let url = login(&fixture, "defib_operator").await;
    let operator = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    (fixture, operator)
}

const BY: OrderedBy<'static> = OrderedBy { person: "ada", reason: "its user waits" };

fn restart(workspace: &str, force: bool) -> Ordered {
    Ordered::Restart { workspace: workspace.into(), force }
}

#[tokio::test]
async fn an_operator_holds_releases_acknowledges_and_suspects_under_its_login() {
    let (fixture, operator) = world().await;
    let login = operator.text("select session_user").await;
    let hold = NewHold { scope: HoldScope::Workspace("w1".into()), owner: "ada", reason: "r", expires_in: None };
    operator.store.hold(&hold).await.unwrap();
    assert_eq!(fixture.text("select owner || ' ' || login from defib.holds").await, format!("ada {login}"));
    assert_eq!(operator.store.release_as(&hold.scope, "ada").await.unwrap(), 1);
    assert_eq!(fixture.text("select released_by from defib.holds").await, format!("ada (login {login})"));

    let id = fixture.grant("w1", 1, 1).await;
    fixture.store.finish(id, Outcome::Failed, None).await.unwrap();
    assert_eq!(operator.store.acknowledge_as(&"w1".into(), "").await.unwrap(), 1);
    assert_eq!(fixture.text("select acknowledged_by from defib.restarts").await, login);

    operator
        .store
        .suspect(NewSuspicion { workspace: "w1", reporter: "ada", reason: "r", ..NewSuspicion::default() })
        .await
        .unwrap();
    assert_eq!(fixture.text("select count(*) from defib.suspicions").await, "1");
    operator.store.status().await.expect_err("it reads nothing");
}

#[tokio::test]
async fn an_order_is_made_once_taken_once_and_ended_once() {
    let (fixture, operator) = world().await;
    let login = operator.text("select session_user").await;
    let id = operator.store.order(&restart("w1", true), BY).await.unwrap();
    assert_eq!(operator.store.order(&restart("w1", false), BY).await.unwrap(), id, "ordered twice is ordered once");
    let [order] = &fixture.store.standing_orders(10, 100).await.unwrap()[..] else { panic!("not one order") };
    assert_eq!((order.id, &order.what, order.reason.as_str()), (id, &restart("w1", true), "its user waits"));
    assert_eq!(order.by, format!("ada (login {login})"));
    assert_eq!(operator.store.order_state(id).await.unwrap().unwrap().owner.as_deref(), Some("replica-1"));

    assert!(fixture.store.take_order(id, "replica-1").await.unwrap());
    assert!(!fixture.store.take_order(id, "replica-2").await.unwrap());
    assert!(!operator.store.withdraw_order(id).await.unwrap(), "it was taken");
    let attempt = fixture.grant("w1", 1, 1).await;
    fixture.store.finish(attempt, Outcome::Succeeded, None).await.unwrap();
    assert!(fixture.store.end_order(id, true, "restarted", Some(attempt)).await.unwrap());
    assert!(!fixture.store.end_order(id, false, "again", None).await.unwrap());
    let state = operator.store.order_state(id).await.unwrap().unwrap();
    assert_eq!(
        (state.done, state.answer.as_deref(), state.outcome.as_deref()),
        (Some(true), Some("restarted"), Some("succeeded"))
    );
    assert!(fixture.store.standing_orders(10, 100).await.unwrap().is_empty());

    let second = operator.store.order(&restart("w1", false), BY).await.unwrap();
    assert!(second > id && operator.store.withdraw_order(second).await.unwrap());
    let storm = operator.store.order(&Ordered::StormEnd { engine: Some("default".into()) }, BY).await.unwrap();
    let of_fleet = operator.store.order(&Ordered::StormEnd { engine: None }, BY).await.unwrap();
    let standing = fixture.store.standing_orders(10, 100).await.unwrap();
    assert_eq!(standing.iter().map(|order| order.id).collect::<Vec<_>>(), [storm, of_fleet]);
    assert_eq!(operator.store.order_state(storm + 99).await.unwrap(), None);
}

/// Of each engine, kind and taker there are the oldest, and nobody's later ones come before anybody's first ones.
#[tokio::test]
async fn orders_that_stand_long_take_no_place_from_those_for_other_engines() {
    let (fixture, operator) = world().await;
    fixture
        .run("insert into defib.workspaces (id, engine) select 'e' || n, 'elsewhere' from generate_series(1, 30) n")
        .await;
    fixture.run("insert into defib.workspaces (id) select 't' || n from generate_series(1, 30) n").await;
    fixture.run("select defib.order_restart(id, 'r') from defib.workspaces where id ~ '^[et]' order by id").await;
    fixture.run("update defib.orders set taken_by = 'gone', taken_at = now() where workspace_id like 't%'").await;
    fixture.run("select defib.order_storm_end('elsewhere', 'r') from generate_series(1, 30)").await;
    let first = operator.store.order(&restart("w1", false), BY).await.unwrap();
    let second = operator.store.order(&restart("w2", false), BY).await.unwrap();
    let storm = operator.store.order(&Ordered::StormEnd { engine: Some("default".into()) }, BY).await.unwrap();
    let of_unknown = operator.store.order(&restart("nobody", false), BY).await.unwrap();

    let standing = fixture.store.standing_orders(10, 100).await.unwrap();
    assert_eq!(standing.len(), 3 * 10 + 4);
    for (id, engine) in
        [(first, Some("default")), (second, Some("default")), (storm, Some("default")), (of_unknown, None)]
    {
        let order = standing.iter().find(|order| order.id == id).expect("it has a place");
        assert_eq!(order.engine.as_ref().map(EngineName::as_str), engine, "{order:?}");
    }
    let of_default = standing.iter().filter(|order| [first, second].contains(&order.id)).map(|order| order.id);
    assert_eq!(of_default.collect::<Vec<_>>(), [first, second], "oldest first");
    let few = fixture.store.standing_orders(10, 6).await.unwrap();
    assert!([first, storm, of_unknown].iter().all(|id| few.iter().any(|order| order.id == *id)), "{few:#?}");
}

/// It is asked each second, and a platform's own view may cost a read of the whole fleet.
#[tokio::test]
async fn while_no_order_stands_the_fleet_is_not_read_for_them() {
    let (fixture, operator) = world().await;
    fixture
        .run(
            "create function public.read_of(id text) returns text language plpgsql as $$ begin raise exception 'the view is read'; end $$;
             create or replace view defib.fleet as
             select public.read_of(id) as workspace_id, name, status, kind, engine, container_ref, instance_ref, false as suspended,
                    last_heartbeat_at, last_activity_at, active_tasks, created_at, policy
               from defib.workspaces",
        )
        .await;
    assert_eq!(fixture.store.standing_orders(10, 100).await.unwrap(), []);
    operator.store.order(&restart("w1", false), BY).await.unwrap();
    fixture.store.standing_orders(10, 100).await.unwrap_err();
}

/// A daemon that comes back under its own name finds an order that it has taken, and does not know any more what came of it.
#[tokio::test]
async fn an_order_is_under_way_while_its_attempt_is_open() {
    let (fixture, operator) = world().await;
    let id = operator.store.order(&restart("w1", false), BY).await.unwrap();
    let under_way = async || fixture.store.order_is_under_way(id).await.unwrap();
    assert!(!under_way().await, "nothing is claimed");
    for (verdict, order) in [("dead", id), ("operator", id + 1)] {
        fixture
            .run(&format!(
                "insert into defib.restarts (workspace_id, engine, attempt, verdict, evidence, finished_at, outcome)
                 values ('w1', 'default', {order}, '{verdict}', '{{\"order\": {order}}}', now(), 'failed')"
            ))
            .await;
        assert!(!under_way().await, "{verdict}");
    }
    fixture
        .run(&format!(
            "insert into defib.restarts (workspace_id, engine, attempt, verdict, evidence)
             values ('w1', 'default', 9, 'operator', '{{\"order\": {id}}}')"
        ))
        .await;
    assert!(under_way().await);
    fixture.run("update defib.restarts set finished_at = now(), outcome = 'succeeded' where attempt = 9").await;
    assert!(!under_way().await);
    assert!(fixture.store.settle_order(id).await.unwrap());
}

/// Whoever has locked the row, an operator at a prompt perhaps, delays that order alone.
#[tokio::test]
async fn nobody_waits_for_an_order_whose_row_is_locked() {
    let (fixture, operator) = world().await;
    let id = operator.store.order(&restart("w1", false), BY).await.unwrap();
    fixture.run("begin; select from defib.orders for update").await;
    assert!(!fixture.store.take_order(id, "replica-1").await.unwrap());
    assert!(!fixture.store.end_order(id, false, "r", None).await.unwrap());
    assert!(!fixture.store.settle_order(id).await.unwrap());
    fixture.run("rollback").await;
    assert!(fixture.store.take_order(id, "replica-1").await.unwrap());
    assert!(fixture.store.end_order(id, false, "r", None).await.unwrap());
}

#[tokio::test]
async fn a_name_that_does_not_exist_has_others_like_it() {
    let (fixture, operator) = world().await;
    fixture.workspace("agent-17").await;
    for (scope, known) in [
        (HoldScope::Fleet, true),
        (HoldScope::Workspace("agent-17".into()), true),
        (HoldScope::Workspace("agnet-17".into()), false),
        (HoldScope::Engine("default".into()), true),
        (HoldScope::Engine("defualt".into()), false),
    ] {
        assert_eq!(operator.store.is_known(&scope).await.unwrap(), known, "{scope:?}");
    }
    let like = |scope: HoldScope| {
        let store = operator.store.clone();
        async move { store.names_like(&scope).await.unwrap() }
    };
    assert_eq!(like(HoldScope::Workspace("agnet-17".into())).await.first().map(String::as_str), Some("agent-17"));
    assert_eq!(like(HoldScope::Workspace("w3".into())).await, ["w1", "w2"]);
    assert_eq!(like(HoldScope::Engine("defualt".into())).await, ["default"]);
}
