//! `gorgo decide`: decisions for recorded fleet states, as JSON lines.

use super::output::print_line;
use super::policy_args::PolicyArgs;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::decide::decide_line;
use gorgo_core::off_policy::Outcome;
use gorgo_core::rng;
use std::io::BufRead;

#[derive(Debug, ClapArgs)]
pub(crate) struct DecideArgs {
    #[command(flatten)]
    policy: PolicyArgs,
    /// Seed of random ties
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(args: &DecideArgs) -> anyhow::Result<()> {
    let config = args.policy.read("decide")?;
    let mut policy = config.build();
    let mut rng = rng::stream(args.seed, "policy", 0);
    let mut bad = 0;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.with_context(|| format!("line {} of standard input cannot be read", number + 1))?;
        if line.trim().is_empty() || matches!(Outcome::parse(&line), Ok(Some(_))) {
            continue;
        }
        match decide_line(&mut *policy, &mut rng, &line) {
            Ok(decision) => print_line(serde_json::to_string(&decision)?)?,
            Err(error) => {
                bad += 1;
                eprintln!("line {}: {error}", number + 1);
            }
        }
    }
    if bad > 0 {
        bail!("{bad} of the lines could not be decided; the good ones were");
    }
    Ok(())
}
