//! One client request, from its head to the last byte of its answer.
//!
//! Reading order: [`forward`] is the whole way in one page. `client_request` admits, reads and announces a request
//! ([`headers`], `endpoints`, [`read_body`], `unpack`, `asked` for the model, [`residency`]); `attempt` sends it to the
//! replica that the core names (`pack` makes it shorter for a peer router, `json_end` finds where an answer without a
//! length ends, `foreign` what no engine says, `absent` and `elsewhere` what another replica may have, `retry_after`
//! how long a busy one asks to wait); [`response_body`] streams the answer (`whole_lines` of it), `early_body` what
//! comes before its first token, `rest_body` a replica's error ([`body`] is any response's body); `guard` reports the
//! request's end to the core and to operators, once, with what `learning` takes from the answer. [`errors`] are the
//! router's own responses (`error_json` their text), `cors` what pages of other sites may read; `location` removes
//! engines' addresses. `tunnel` passes WebSockets (`page_key`: the key of a page), `engine_admin` sends administration
//! to all engines, `model_pages` lists the models, `kept_lists` files and batches; `context` is what a connection's
//! requests share.

pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod endpoints;
pub(crate) mod error_json;
pub(crate) mod errors;
pub(crate) mod forward;
pub(crate) mod headers;
pub(crate) mod json_end;
pub(crate) mod location;
pub(crate) mod pack;
pub(crate) mod read_body;
pub(crate) mod residency;
pub(crate) mod response_body;

mod absent;
mod asked;
mod attempt;
mod client_request;
mod cors;
mod early_body;
pub(crate) mod elsewhere;
mod engine_admin;
mod foreign;
mod guard;
mod kept_lists;
mod learning;
mod model_pages;
mod page_key;
mod rest_body;
mod retry_after;
mod tunnel;
pub(crate) mod unpack;
mod whole_lines;
