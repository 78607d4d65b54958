//! The example of deploy/adapters/README.md: whoever copies it must have an adapter that works.

use defib_policy::attempt::Outcome;
use defib_store::{Answer, Claimed, MayAct};
use serde_json::json;

use crate::fixture::{Fixture, watched};

const GUIDE: &str = include_str!("../../../../deploy/adapters/README.md");

/// What stands between the fences of SQL, in order.
fn examples() -> Vec<&'static str> {
    GUIDE.split("\n```sql\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[tokio::test]
async fn the_example_is_an_adapter() {
    let fixture = Fixture::new().await;
    let [platform, adapter] = examples()[..] else {
        panic!("two blocks of SQL: the platform's tables, and the adapter")
    };
    fixture.run(platform).await;
    fixture.run(adapter).await;
    fixture.run(adapter).await; // again at any time
    fixture.store.migrate().await.unwrap(); // and not undone
    fixture
        .run(
            "insert into farm.agents (agent, state, host, beat) values
                (1, 'up', 'default', now()), (2, 'asleep', 'default', now()), (3, 'down', 'other', null)",
        )
        .await;
    assert_eq!(fixture.fleet().await, ["1", "3"]);
    let facts = fixture.store.check_contract(&watched()).await.unwrap();
    assert_eq!(facts.breaches, []);
    assert!(facts.trials.len() == 5 && facts.trials.iter().all(|trial| trial.answer == Answer::Veto), "{facts:?}");

    let id = fixture.grant("1", 1, 1).await;
    let state = "select string_agg(state, ' ' order by agent) from farm.agents";
    assert_eq!(fixture.text(state).await, "down asleep down");
    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
    fixture.store.finish(id, Outcome::Succeeded, None).await.unwrap();
    assert!(fixture.store.recovered(id, &"1".into()).await.unwrap());
    assert!(fixture.store.take_back(&"1".into(), &json!({})).await.unwrap());
    assert_eq!(fixture.text(state).await, "up asleep down");

    for change in ["state = 'asleep'", "state = 'down'", "beat = clock_timestamp()"] {
        fixture.run("update farm.agents set state = 'up' where agent = 1").await;
        let evidence = fixture.evidence("1").await;
        fixture.run(&format!("update farm.agents set {change} where agent = 1")).await;
        let claimed = fixture.claim("1", evidence, 2, 1).await;
        assert!(matches!(claimed, Claimed::Vetoed { .. }), "{change}: {claimed:?}");
    }
}

#[test]
fn the_guide_names_every_column_of_the_view() {
    for column in [
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
    ] {
        assert!(GUIDE.contains(&format!("\n| `{column}` |")), "{column} has no line in the table");
    }
}
