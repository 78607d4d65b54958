//! scratch
#![allow(clippy::all, clippy::pedantic, missing_docs, clippy::unwrap_used)]
use defib_policy::moment::Moment;
use defib_store::*;
use std::sync::Arc;
use std::time::*;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) * 10.0
}
#[tokio::main]
async fn main() {
    let url = std::env::args().nth(1).unwrap();
    let origin = Instant::now();
    let store = Store::new(
        &StoreSettings {
            url: url.clone(),
            application_name: "m".into(),
            pool_size: 8,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        },
        Arc::new(move || Moment::after(origin.elapsed())),
    )
    .unwrap();
    println!("{:?}", store.migrate().await);
    let watched: Vec<String> = ["online", "degraded", "offline"].map(String::from).to_vec();
    let c0 = cpu();
    for _ in 0..20 {
        let t = Instant::now();
        let (r, m) = store.read_fleet(FleetScope::All, &watched).await.unwrap();
        println!("read {} {:?} {}", r.workspaces.len(), t.elapsed(), m.len());
    }
    println!("CPU read {}", (cpu() - c0) / 20.0);
    let (client, conn) = tokio_postgres::connect(&url.replace("6543", "54999"), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(conn);
    let c0 = cpu();
    for _ in 0..20 {
        let t = Instant::now();
        let rows = client.query_raw::<str, &str, _>("select id, status, kind, engine, container_ref, instance_ref, last_heartbeat_at, last_activity_at, active_tasks, created_at, policy::text from defib.workspaces", []).await.unwrap();
        let rows: Vec<_> = {
            use futures_util::TryStreamExt;
            let mut n = 0;
            let mut r = std::pin::pin!(rows);
            let mut v = Vec::new();
            while let Some(row) = r.try_next().await.unwrap() {
                n += 1;
                v.push((
                    row.get::<_, String>(0),
                    row.get::<_, String>(1),
                    row.get::<_, &str>(2).len(),
                    row.get::<_, &str>(3).len(),
                    row.get::<_, Option<String>>(4),
                    row.get::<_, Option<String>>(5),
                    row.get::<_, Option<SystemTime>>(6),
                    row.get::<_, Option<SystemTime>>(7),
                    row.get::<_, Option<i32>>(8),
                    row.get::<_, Option<SystemTime>>(9),
                    row.get::<_, Option<String>>(10),
                ));
            }
            let _ = n;
            v
        };
        println!("floor {} {:?}", rows.len(), t.elapsed());
    }
    println!("CPU floor {}", (cpu() - c0) / 20.0);
    let ids: Vec<_> = (0..3).map(|n| defib_policy::id::WorkspaceId::from(format!("ws-{:06}", n * 7 + 10001))).collect();
    for _ in 0..6 {
        let t = Instant::now();
        let (r, _) = store.read_fleet(FleetScope::Some(&ids), &watched).await.unwrap();
        println!("focus {} {:?}", r.workspaces.len(), t.elapsed());
    }
    for _ in 0..3 {
        let t = Instant::now();
        println!(
            "attempts {} {:?}",
            store.read_attempts(FleetScope::All, Duration::from_secs(600)).await.unwrap().len(),
            t.elapsed()
        );
    }
    let t = Instant::now();
    store.ping().await.unwrap();
    println!("ping {:?}", t.elapsed());
    // suspicions
    let n = 20000;
    let t = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    for w in 0..8 {
        let store = store.clone();
        set.spawn(async move {
            for i in 0..n / 8 {
                let id = format!("ws-{}", (i * 8 + w) % 500);
                store
                    .suspect(NewSuspicion {
                        workspace: &id,
                        reporter: "proxy-1",
                        reason: "connection_refused",
                        http_status: Some(502),
                        detail: Some("dial tcp 10.0.0.1:8080: connection refused"),
                    })
                    .await
                    .unwrap();
            }
        });
    }
    let taker = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut got = 0;
            let mut worst = Duration::ZERO;
            while got < n {
                let t = Instant::now();
                got += store.take_suspicions(5000).await.unwrap().len();
                worst = worst.max(t.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (got, worst)
        })
    };
    while set.join_next().await.is_some() {}
    println!(
        "suspicions {n} in {:?} = {:.0}/s; {:?}",
        t.elapsed(),
        n as f64 / t.elapsed().as_secs_f64(),
        taker.await.unwrap()
    );
}
