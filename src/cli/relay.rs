//! `gorgo relay`: a wide-area network between loopback ports.

use super::output::print_line;
use super::process::StopSignal;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_benchmark::relay::{LinkConfig, Relay, RelayConfig, control};
use gorgo_sim::network::NetworkConfig;
use std::net::SocketAddr;

#[derive(Debug, ClapArgs)]
pub(crate) struct RelayArgs {
    /// LISTEN=TARGET,rtt=MS or LISTEN=TARGET,from=REGION,to=REGION; also name=, lifetime=SECONDS, opening=ROUNDS,
    /// window=BYTES, congestion=cubic|cubic-kept|bbr, mbps=MBPS
    #[arg(long = "link", required = true)]
    links: Vec<String>,
    /// Spread of the slow swing of round trips, in log space
    #[arg(long, default_value_t = NetworkConfig::default().sigma)]
    sigma: f64,
    /// Spread of single messages, as a share of the one-way time
    #[arg(long, default_value_t = NetworkConfig::default().jitter)]
    jitter: f64,
    /// Factor on all round trips
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seed of all draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most connections of one link
    #[arg(long, default_value_t = 1024)]
    max_connections: usize,
    /// Address for commands (loopback): POST /links/NAME/partition, heal, reset
    #[arg(long)]
    control: Option<SocketAddr>,
}

pub(super) fn run(args: &RelayArgs) -> anyhow::Result<()> {
    let links = args.links.iter().enumerate().map(|(i, text)| LinkConfig::parse(text, i));
    let links = links.collect::<Result<Vec<_>, _>>().map_err(|e| anyhow::anyhow!("--link {e}"))?;
    for (key, value) in [("--sigma", args.sigma), ("--jitter", args.jitter), ("--scale", args.scale)] {
        if !(0.0..=10.0).contains(&value) {
            bail!("{key} is {value}; give 0 to 10");
        }
    }
    let network = NetworkConfig { sigma: args.sigma, jitter: args.jitter, scale: args.scale, ..Default::default() };
    let config = RelayConfig {
        network,
        seed: args.seed,
        links,
        sites: Vec::new(),
        byte_scale: 1.0,
        max_connections: args.max_connections,
    };
    super::process::runtime()?.block_on(async {
        let mut stop = StopSignal::install()?; // before the address is printed
        let relay = Relay::start(config).await?;
        for (link, addr) in relay.links() {
            print_line(format_args!("{}: {addr} -> {} ({} to {})", link.name, link.target, link.from, link.to))?;
        }
        if let Some(addr) = args.control {
            if !addr.ip().is_loopback() {
                bail!("--control {addr} can be reached from outside; give 127.0.0.1:PORT");
            }
            control::serve(relay.handles(), addr).await.with_context(|| format!("cannot listen on {addr}"))?;
        }
        stop.recv().await;
        Ok(())
    })
}
