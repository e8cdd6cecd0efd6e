// The KV cache holds float16.
alias Kv = f16;
alias Kv4 = vec4<f16>;
