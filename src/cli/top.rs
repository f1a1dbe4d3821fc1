//! `gorgo top`: a running router in the terminal, from the JSON of `/overview`.
//!
//! Reading order: this file (arguments, the loop of keys and news) → `app` (what is shown and what keys do) → `view` (the
//! screen) with `tables` and `text` (figures as text).

use super::process::StopSignal;
use super::router::{RouterAddress, block_on};
use crate::cli::output::print_line;
use anyhow::{Context, bail};
use app::{App, Wish};
use clap::Args as ClapArgs;
use gorgo_live::AdminClient;
use http::Method;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

mod app;
mod tables;
mod text;
mod view;

/// Time between two looks at the router, and the longest that one may take.
const PERIOD: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait for a key before new messages are read.
const KEY_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    address: RouterAddress,
    /// The router, in place of --host and --port
    #[arg(value_name = "URL", conflicts_with_all = ["host", "port", "tls"])]
    url: Option<String>,
}

/// Messages from other threads to the screen.
enum News {
    /// The router's latest `/overview`.
    Overview(Value),
    /// Why the router gave no overview.
    Silent(String),
    /// How a command ended.
    Done(String),
    /// A signal to end came.
    Stop,
}

pub(super) fn run(args: &TopArgs) -> anyhow::Result<()> {
    let client = match &args.url {
        Some(url) => args.address.client(url)?,
        None if args.address.host.len() > 1 => bail!("`gorgo top` watches one router; give one --host"),
        None => args.address.clients()?.remove(0),
    };
    if args.address.json {
        return block_on(async {
            let overview = client.call(Method::GET, "/overview", None).await?;
            Ok(print_line(serde_json::to_string_pretty(&overview)?)?)
        });
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("`gorgo top` needs a terminal; `gorgo top --json` prints what it would show");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (sender, news) = channel();
    {
        let _entered = runtime.enter();
        let mut stop = StopSignal::install().context("cannot handle signals")?;
        let told = sender.clone();
        runtime.spawn(async move {
            stop.recv().await;
            let _ = told.send(News::Stop);
        });
    }
    runtime.spawn(watch(client.clone(), sender.clone()));
    let colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let mut app = App::new(client.name(), colours);
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let ended = interact(&mut terminal, &mut app, &news, |wish| {
        runtime.spawn(carry_out(client.clone(), wish, sender.clone()));
    });
    let restored = ratatui::try_restore().context("cannot restore the terminal");
    // Calls that have not ended are given up.
    runtime.shutdown_background();
    ended.and(restored)
}

/// Draws, and obeys keys, until a key or a signal ends it.
fn interact(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    news: &Receiver<News>,
    act: impl Fn(Wish),
) -> anyhow::Result<()> {
    loop {
        terminal.draw(|frame| view::draw(frame, app)).context("cannot draw")?;
        if event::poll(KEY_WAIT).context("cannot read the terminal")? {
            // Other events, such as a new size, need no more than to draw again.
            if let Event::Key(key) = event::read().context("cannot read the terminal")?
                && key.kind != KeyEventKind::Release
            {
                match app.key(key) {
                    Some(Wish::Quit) => return Ok(()),
                    Some(wish) => act(wish),
                    None => {}
                }
            }
        }
        loop {
            match news.try_recv() {
                Ok(News::Overview(overview)) => app.show(overview),
                Ok(News::Silent(why)) => app.silent(why),
                Ok(News::Done(what)) => app.note(what),
                Ok(News::Stop) => return Ok(()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }
}

/// Asks the router each second until nothing listens any more.
async fn watch(client: AdminClient, told: Sender<News>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = tokio::time::timeout(PATIENCE, client.call(Method::GET, "/overview", None)).await;
        let news = match asked {
            Ok(Ok(overview)) if overview["replicas"].is_array() => News::Overview(overview),
            Ok(Ok(_)) => News::Silent(format!("{} answers, but is no gorgo router", client.name())),
            Ok(Err(error)) => News::Silent(error.to_string()),
            Err(_) => News::Silent(format!("no answer from {} within {} s", client.name(), PATIENCE.as_secs())),
        };
        if told.send(news).is_err() {
            return;
        }
    }
}

async fn carry_out(client: AdminClient, wish: Wish, told: Sender<News>) {
    let Wish::Drain { id, draining } = wish else { return };
    let body = json!({"id": id, "draining": draining});
    let done = match client.call(Method::POST, "/proxy/servers/drain", Some(&body)).await {
        Ok(_) if draining => format!("{id} drains: it finishes its requests and gets no new ones"),
        Ok(_) => format!("{id} gets requests again"),
        Err(error) => error.to_string(),
    };
    let _ = told.send(News::Done(done));
}

#[cfg(test)]
mod tests;
