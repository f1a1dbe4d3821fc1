//! `gorgo decide`: decisions for recorded fleet states, as JSON lines.

use super::output::{print_line, print_note};
use super::policy_args::PolicyArgs;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_core::decide::decide_line;
use gorgo_core::off_policy::Outcome;
use gorgo_core::rng;
use gorgo_experiments::records::{LineError, no_json, read_lines};

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
    let read = read_lines(std::io::stdin().lock(), |number, line| {
        if matches!(Outcome::parse(line), Ok(Some(_))) {
            return Ok(());
        }
        match decide_line(&mut *policy, &mut rng, line) {
            Ok(decision) => print_line(serde_json::to_string(&decision)?)?,
            Err(error) if no_json(line).is_some() => return Err(anyhow::Error::from(error)),
            Err(error) => {
                bad += 1;
                eprintln!("line {number}: {error}");
            }
        }
        Ok(())
    });
    match read {
        Ok(None) => {}
        Ok(Some(notice)) => print_note(format_args!("standard input: {notice}")),
        Err(LineError::Io(line, error)) => {
            return Err(error).with_context(|| format!("line {line} of standard input cannot be read"));
        }
        Err(LineError::Line(_, error)) => return Err(error),
        Err(LineError::Broken(line, why)) => bail!("line {line} of standard input {why}; give one state a line"),
    }
    if bad > 0 {
        bail!("{bad} of the lines could not be decided; the good ones were");
    }
    Ok(())
}
