//! `sslmode` against a server with a certificate and without: what libpq accepts is accepted, and nothing more.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use defib_store::Store;
use defib_testkit::{PrivatePostgres, eventually, postgres};

use crate::fixture::{SOON, clock, settings, shown};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Turns TLS on: the key belongs to whoever runs the server.
async fn serve_tls(server: &PrivatePostgres) {
    let socket = server.socket_directory();
    let (directory, owner) = (socket.parent().unwrap(), fs::metadata(&socket).unwrap());
    let client = postgres::connect(&server.url("postgres")).await.unwrap();
    for (setting, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
        let copy = directory.join(file);
        fs::copy(data(file), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&copy, Some(owner.uid()), Some(owner.gid())).unwrap();
        client.batch_execute(&format!("alter system set {setting} = '{}'", copy.display())).await.unwrap();
    }
    client.batch_execute("alter system set ssl = on").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
}

/// Whether a connection comes about, and whether it is encrypted; else why not.
async fn connects(server: &PrivatePostgres, host: &str, options: &str) -> Result<bool, String> {
    let url = format!("postgres://postgres@{host}:{}/postgres?{options}", server.port());
    let store = Store::new(&settings(&url), clock()).map_err(|error| shown(&error))?;
    store.ping().await.map_err(|error| shown(&error))?;
    let watcher = postgres::connect(&server.url("postgres")).await.unwrap();
    let sql = "select bool_or(s.ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) where a.application_name = 'defib-test'";
    Ok(watcher.query_one(sql, &[]).await.unwrap().get(0))
}

#[tokio::test]
async fn sslmode_means_what_it_means_to_libpq() {
    let server = PrivatePostgres::start().await.unwrap();
    for (mode, encrypted) in
        [("disable", Some(false)), ("allow", Some(false)), ("prefer", Some(false)), ("require", None)]
    {
        let result = connects(&server, "localhost", &format!("sslmode={mode}")).await;
        assert_eq!(result.clone().ok(), encrypted, "no TLS at the server, {mode}: {result:?}");
    }

    serve_tls(&server).await;
    eventually(SOON, "TLS is served", || async {
        match connects(&server, "localhost", "sslmode=require").await {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let (ca, other) = (data("ca.pem").display().to_string(), data("other-ca.pem").display().to_string());
    let pinned = data("server.pem").display().to_string();
    let cases = [
        ("localhost", "sslmode=disable".to_owned(), Ok(false)),
        ("localhost", "sslmode=allow".to_owned(), Ok(false)),
        ("localhost", "sslmode=prefer".to_owned(), Ok(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Ok(true)),
        ("localhost", format!("sslmode=require&sslrootcert={ca}"), Ok(true)),
        ("localhost", format!("sslmode=require&sslrootcert={other}"), Err("not issued by sslrootcert=")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}"), Ok(true)),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), Err("UnknownIssuer")),
        ("localhost", "sslmode=verify-ca".to_owned(), Err("needs sslrootcert")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}"), Ok(true)),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), Err("for another host")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={pinned}"), Ok(true)),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={pinned}"), Err("not valid for name")),
        ("localhost", "sslmode=verify-full&sslrootcert=/does/not/exist".to_owned(), Err("/does/not/exist")),
    ];
    for (host, options, expected) in cases {
        let result = connects(&server, host, &options).await;
        match expected {
            Ok(encrypted) => assert_eq!(result, Ok(encrypted), "{host} {options}"),
            Err(says) => assert!(result.as_ref().is_err_and(|why| why.contains(says)), "{host} {options}: {result:?}"),
        }
    }
}
