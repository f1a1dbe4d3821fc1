//! Reads request bodies and responses in place. Read `json` (the parser), [`request_fields`] and [`prompt_blocks`]
//! (what the router takes from a prompt), [`other_fields`] (from any other request), then `content_type`, `sse_frames` and [`answer_tap`] (what it takes from a response).

pub(crate) mod answer_tap;
pub(crate) mod content_type;
pub(crate) mod other_fields;
pub(crate) mod prompt_blocks;
pub(crate) mod request_fields;

pub(crate) mod json;

mod sse_frames;
