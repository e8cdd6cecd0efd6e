//! Writes the tokenizer of a folder into a GGUF file.

use std::path::Path;

use dunlin::checkpoint::sentencepiece::{self, PieceKind};

use super::gguf::Writer;

/// The tokenizer of a folder's `tokenizer.model`, filled up to `vocab` tokens with one Chinese or Korean character
/// each; the rarer Chinese ones come last.
pub fn with_sentencepiece(writer: Writer, folder: &Path, vocab: usize) -> Writer {
    let file = folder.join("tokenizer.model");
    let model = sentencepiece::read("tokenizer.model", &std::fs::read(file).expect("a file")).expect("a model");
    let mut kinds: Vec<i32> = model
        .pieces
        .iter()
        .map(|piece| match piece.kind {
            PieceKind::Normal => 1,
            PieceKind::Unknown => 2,
            PieceKind::Control => 3,
            PieceKind::UserDefined => 4,
            PieceKind::Unused => 5,
            PieceKind::Byte => 6,
        })
        .collect();
    let mut tokens: Vec<String> = model.pieces.iter().map(|piece| piece.text.clone()).collect();
    let mut scores: Vec<f32> = model.pieces.iter().map(|piece| piece.score).collect();
    let more =
        ('\u{4e00}'..='\u{9fff}').chain('\u{ac00}'..='\u{d7a3}').chain('\u{20000}'..='\u{2a6df}').map(String::from);
    let more: Vec<String> =
        more.filter(|token| !tokens.contains(token)).take(vocab.saturating_sub(tokens.len())).collect();
    kinds.extend(more.iter().map(|_| 1));
    scores.extend((tokens.len()..).map(|id| -(id as f32)).take(more.len()));
    tokens.extend(more);
    assert!(tokens.len() >= vocab, "{} characters are not enough for {vocab} tokens", tokens.len());
    writer
        .string("tokenizer.ggml.model", "llama")
        .string("tokenizer.ggml.pre", "default")
        .strings("tokenizer.ggml.tokens", &tokens)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .u32("tokenizer.ggml.unknown_token_id", model.unk)
        .bool("tokenizer.ggml.add_bos_token", true)
        .bool("tokenizer.ggml.add_eos_token", false)
        .bool("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix)
}
