//! Nothing outlives a process that used the kit, even when it is killed with SIGKILL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use defib_testkit::process::{self, Signal};
use defib_testkit::{EngineHandle, Program, eventually, postgres};

#[tokio::test]
async fn kill_9_leaves_no_process_mount_cgroup_or_directory() -> Result<()> {
    let servers = Program::start(env!("CARGO_BIN_EXE_servers"), ["--workspace"], &BTreeMap::new())?;
    servers.wait_for_line("# ready", Duration::from_secs(60)).await?;
    let database = value(&servers, "DEFIB_DATABASE_URL=")?;
    let engine = EngineHandle::connect(value(&servers, "DOCKER_HOST=")?);
    let workspace = engine.main_pid("w1").await?.unwrap();
    let pooler = value_after(&servers, "# through pgbouncer (")?;
    let pooler = pooler.split(')').next().unwrap_or_default().to_owned();
    assert!(process::is_alive(&pooler), "{pooler}");
    let postgres_backend: i32 =
        postgres::connect(&database).await?.query_one("select pg_backend_pid()", &[]).await?.get(0);
    let directories = [
        PathBuf::from(engine.url().trim_start_matches("unix://")).parent().unwrap().to_owned(),
        data_directory(&database).await?.parent().unwrap().to_owned(),
    ];

    servers.signal(Signal::KILL)?;
    servers.wait_exit(Duration::from_secs(5)).await?;

    eventually(Duration::from_secs(20), "nothing is left", async || {
        for directory in &directories {
            let left = [process::marked(directory), process::working_under(directory)].concat();
            if !left.is_empty() || directory.exists() {
                return Err(format!("{}, processes {left:?}", directory.display()));
            }
            let name = directory.file_name().unwrap().to_str().unwrap();
            let groups = cgroups(name);
            if !groups.is_empty() {
                return Err(format!("cgroups {groups:?}"));
            }
            if std::fs::read_to_string("/proc/mounts").unwrap().contains(name) {
                return Err(format!("mounts below {name}"));
            }
        }
        for pid in [&workspace.to_string(), &postgres_backend.to_string(), &pooler] {
            if process::is_alive(pid) {
                return Err(format!("process {pid} lives"));
            }
        }
        Ok(())
    })
    .await
}

fn value(servers: &Program, name: &str) -> Result<String> {
    value_after(servers, &format!("export {name}"))
}

fn value_after(servers: &Program, prefix: &str) -> Result<String> {
    let stdout = servers.stdout();
    let found = stdout.lines().find_map(|line| line.strip_prefix(prefix));
    Ok(found.with_context(|| format!("no {prefix} in {stdout}"))?.to_owned())
}

async fn data_directory(database: &str) -> Result<PathBuf> {
    let row = postgres::connect(database).await?.query_one("show data_directory", &[]).await?;
    Ok(PathBuf::from(row.get::<_, String>(0)))
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(name)).filter(|path| path.exists()).collect()
}
