// The KV cache holds float32.
alias Kv = f32;
alias Kv4 = vec4<f32>;
