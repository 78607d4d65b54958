//! Connections to the world: the database, the engines, and where to listen. Made from the configuration, for the daemon and for the
//! commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use defib_engine::{Engine, EngineSettings, PlatformRestart, TlsPaths, WithPlatform};
use defib_policy::id::EngineName;
use defib_store::{ListenSettings, Store, StoreSettings, check_url};

use crate::cache::RedisCache;
use crate::clock::Clock;
use crate::config::{Config, Secret};
use crate::logging::chain;
use crate::refused::Refused;

/// How long it may take to make a connection, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call to the database may take. Reading a large fleet takes a tenth of that.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of a command.
pub(crate) const POOL_SIZE: usize = 4;

/// A store for a command that reads a few rows of the fleet.
pub(crate) fn store(url: &Secret, name: &str, clock: Clock) -> Result<Store, Refused> {
    store_with(url, name, POOL_SIZE, usize::MAX, clock)
}

/// A store with `pool_size` connections, made when they are needed, that refuses to read a fleet of more than `fleet_max` rows.
pub(crate) fn store_with(
    url: &Secret,
    name: &str,
    pool_size: usize,
    fleet_max: usize,
    clock: Clock,
) -> Result<Store, Refused> {
    let settings = StoreSettings {
        url: url.expose().to_owned(),
        application_name: name.to_owned(),
        pool_size,
        connect_timeout: CONNECT_TIMEOUT,
        statement_timeout: STATEMENT_TIMEOUT,
        fleet_max,
    };
    Store::new(&settings, clock).map_err(|error| Refused(format!("DEFIB_DATABASE_URL: {}", chain(&error))))
}

/// The platform's own restart, where the configuration has one.
pub(crate) fn platform(config: &Config) -> Result<Option<PlatformRestart>, Refused> {
    let Some(url) = &config.platform_url else { return Ok(None) };
    let token = config.platform_token.as_ref().map(|token| token.expose().into());
    let platform = PlatformRestart::new(url.expose(), token.as_ref());
    platform.map(Some).map_err(|error| Refused(format!("DEFIB_PLATFORM_URL: {}", chain(&error))))
}

/// The platform's cache, where the configuration has one.
pub(crate) fn cache(config: &Config) -> Result<Option<RedisCache>, Refused> {
    let Some(evict) = &config.evict else { return Ok(None) };
    RedisCache::new(evict.redis.clone()).map(Some).map_err(|why| Refused(format!("DEFIB_REDIS_URL: {why}")))
}

/// The engines of the configuration, each with the platform's own restart where there is one.
pub(crate) fn engines(config: &Config, clock: &Clock) -> Result<BTreeMap<EngineName, Arc<dyn Engine>>, Refused> {
    let tls = std::env::var_os("DOCKER_CERT_PATH").map(|path| TlsPaths::in_directory(Path::new(&path)));
    let verify = std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
    let platform = platform(config)?.map(Arc::new);
    let mut engines = BTreeMap::new();
    for (name, url) in &config.engines {
        let https = matches!(url, defib_engine::EngineUrl::Https(_));
        let settings = EngineSettings {
            name: name.clone(),
            url: url.clone(),
            workspace_label: config.workspace_label.clone(),
            call_timeout: config.engine_timeout,
            full_list_every: config.resync_interval,
            tls: tls.clone().filter(|_| https || verify),
            token: config.engine_tokens.get(name).map(|token| token.expose().into()),
        };
        let engine = defib_engine::connect(settings, Arc::clone(clock))
            .map_err(|error| Refused(format!("DEFIB_ENGINES: {}", chain(&error))))?;
        let engine = match &platform {
            Some(platform) => Arc::new(WithPlatform::new(engine, Arc::clone(platform), config.restart_by)),
            None => engine,
        };
        engines.insert(name.clone(), engine);
    }
    Ok(engines)
}

/// How to LISTEN, which takes a connection of its own.
pub(crate) fn listen_settings(config: &Config) -> Result<ListenSettings, Refused> {
    let url = config.listen_database_url.expose();
    check_url(url).map_err(|error| Refused(format!("DEFIB_LISTEN_DATABASE_URL: {}", chain(&error))))?;
    Ok(ListenSettings {
        url: url.to_owned(),
        application_name: "defib listen".to_owned(),
        connect_timeout: CONNECT_TIMEOUT,
    })
}
