//! `make soak`: rounds of random kills, for as long as you like.
//!
//! usage: `defib-soak [--seed N] [--rounds N] [--break replicas|postgres|both|neighbours]`

use std::process::ExitCode;

use defib_tests::{Breaking, Soak, soak};

#[tokio::main]
async fn main() -> ExitCode {
    let asked = match asked(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!(
                "defib-soak: {why}; usage: defib-soak [--seed N] [--rounds N] [--break replicas|postgres|both|neighbours]"
            );
            return ExitCode::from(2);
        }
    };
    println!("seed {}, {} rounds, breaking {:?}", asked.seed, asked.rounds, asked.breaking);
    match soak(asked).await {
        Ok(report) => {
            println!("{report}: every dead one was restarted once");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("defib-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked(mut words: impl Iterator<Item = String>) -> Result<Soak, String> {
    let mut asked = Soak { seed: 1, rounds: 200, breaking: Breaking::Replicas };
    while let Some(option) = words.next() {
        let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{option} takes a number, not {value}"));
        match option.as_str() {
            "--seed" => asked.seed = number()?,
            "--rounds" => asked.rounds = usize::try_from(number()?).map_err(|error| error.to_string())?,
            "--break" => {
                asked.breaking = match value.as_str() {
                    "replicas" => Breaking::Replicas,
                    "postgres" => Breaking::Postgres,
                    "both" => Breaking::Both,
                    "neighbours" => Breaking::Neighbours,
                    _ => return Err(format!("--break takes replicas, postgres, both or neighbours, not {value}")),
                }
            }
            _ => return Err(format!("{option} is not known")),
        }
    }
    Ok(asked)
}
