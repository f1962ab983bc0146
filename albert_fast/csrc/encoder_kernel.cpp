// One thread's share of ALBERT's encoder. CMakeLists.txt compiles this file once per instruction set, each time into the
// namespace ALBERT_FAST_ISA.
//
// Threads form a grid: groups share out the rows of the batch, and the threads of a group the output channels. A group's
// rows stay with it, in its caches, from one attention to the next; only attention needs everybody's.
#include <sched.h>

#include "activations.h"
#include "encoder.h"
#include "heads.h"

namespace albert_fast::ALBERT_FAST_ISA {

extern const EncoderKernels encoder;

namespace {

constexpr int64_t kRowsWorthAGroup = 24;        // fewer rows than this a thread, and threads share channels instead
constexpr int64_t kMiddleBytes = 768 * 1024;    // of the feed-forward's middle, held at a time by a group
constexpr int64_t kQueriesWorthAnItem = 64;

inline int64_t smaller(int64_t left, int64_t right) {
  return left < right ? left : right;
}

inline int64_t larger(int64_t left, int64_t right) {
  return left > right ? left : right;
}

// Rows that are worked on together: all tokens, or in the last pass only each text's first.
struct Rows {
  int64_t count;
  float* x;         // [count, width of D], the residual
  float* y;         // [count, width of D], what LayerNorm reads
  char* operand;    // x as products read it; x itself in float32
  char* context;    // [count, width of D], as products read it
};

struct Grid {
  int64_t groups;
  int64_t threads_in_group;
  int64_t chunk;  // rows whose feed-forward middle is held at a time
};

inline Grid grid_of(const Encoder& problem, int64_t rows, int64_t threads) {
  int64_t groups = smaller(threads, larger(1, rows / kRowsWorthAGroup));
  while (threads % groups != 0) {
    --groups;
  }
  const Linear& ffn = problem.layers[0].ffn;
  const int64_t row_bytes = round_up(ffn.out, kPanel) * size_of(ffn.type);
  const int64_t in_group = (rows + groups - 1) / groups;
  const int64_t most = groups == threads ? larger(kTileRows, kMiddleBytes / row_bytes) : in_group;
  const int64_t chunks = larger(1, (in_group + most - 1) / most);
  return {groups, threads / groups, (in_group + chunks - 1) / chunks};
}

// Hands out the workspace; with a null base it only counts.
struct Carver {
  char* base;
  int64_t used;

  template <class T = char>
  T* take(int64_t bytes) {
    char* const place = base + used;
    used += round_up(bytes, 64) + 64;  // a product may read a step behind the last row
    return reinterpret_cast<T*>(place);
  }
};

template <class Kind, class Attention>
struct Plan {
  const Encoder& problem;
  const Batch& batch;
  int64_t hidden_width;
  int64_t qkv_width;
  Rows all;
  Rows firsts;
  typename Attention::Element* qkv;            // [tokens, width of 3 D]
  typename Attention::Element* first_queries;  // [batch, width of D]
  char* mapping_operand;                       // [tokens, width of E]
  char* middle;                                // for each group [chunk, width of F]
  int64_t middle_bytes;                        // of one group
  char* scratch;                               // for each thread
  int64_t scratch_bytes;
  int64_t bytes;

  Plan(const Encoder& problem, const Batch& batch, int64_t threads, char* workspace)
      : problem(problem), batch(batch), hidden_width(round_up(problem.hidden_size, kPanel)),
        qkv_width(round_up(3 * problem.hidden_size, kPanel)) {
    Carver carver{workspace, 0};
    all = rows(carver, batch.tokens);
    const bool compact = problem.first_token_only;
    firsts = rows(carver, compact ? batch.batch : 0);
    constexpr int64_t kElement = sizeof(typename Attention::Element);
    qkv = carver.take<typename Attention::Element>(batch.tokens * qkv_width * kElement);
    first_queries = carver.take<typename Attention::Element>(compact ? batch.batch * hidden_width * kElement : 0);
    mapping_operand = carver.take(batch.tokens * mapping_width() * 4);
    const int64_t most_rows = compact ? larger(batch.tokens, batch.batch) : batch.tokens;
    const Grid grid = grid_of(problem, most_rows, threads), small = grid_of(problem, batch.batch, threads);
    int64_t widest = 0;
    for (int64_t pass = 0; pass < problem.passes; ++pass) {
      const Linear& ffn = problem.layers[problem.schedule[pass]].ffn;
      widest = larger(widest, round_up(ffn.out, kPanel) * size_of(ffn.type));
    }
    middle_bytes = round_up(larger(grid.chunk, small.chunk) * widest, 64) + 64;
    middle = carver.take(middle_bytes * threads);
    int64_t longest = 1;
    for (int64_t text = 0; text < batch.batch; ++text) {
      longest = larger(longest, batch.texts[text].end - batch.texts[text].begin);
    }
    scratch_bytes =
        round_up(attention_scratch_bytes<Attention>(longest, problem.hidden_size / problem.num_heads), 64);
    scratch = carver.take(scratch_bytes * threads);
    bytes = carver.used;
  }

  int64_t mapping_width() const {
    return round_up(problem.embedding_size, kPanel);
  }

  Rows rows(Carver& carver, int64_t count) const {
    constexpr int64_t kElement = sizeof(typename Kind::Element);
    Rows rows{count, nullptr, nullptr, nullptr, nullptr};
    rows.x = carver.take<float>(count * hidden_width * 4);
    rows.y = carver.take<float>(count * hidden_width * 4);
    rows.operand = Kind::type == Type::float32 ? reinterpret_cast<char*>(rows.x)
                                               : carver.take(count * hidden_width * kElement);
    rows.context = carver.take(count * hidden_width * kElement);
    return rows;
  }
};

template <class Kind, class Attention>
class Thread {
 public:
  Thread(const Plan<Kind, Attention>& plan, Team& team, int64_t thread)
      : plan_(plan), problem_(plan.problem), batch_(plan.batch), team_(team), thread_(thread) {
    join(batch_.tokens);
  }

  void run() {
    embed();
    for (int64_t pass = 0; pass < problem_.passes; ++pass) {
      const Layer& layer = problem_.layers[problem_.schedule[pass]];
      const bool firsts = problem_.first_token_only && pass == problem_.passes - 1;
      if (firsts) {
        query_firsts(layer, pass);
      } else {
        query_all(layer, pass);
      }
      wait();
      attention(pass, firsts);
      wait();
      const Rows& rows = firsts ? plan_.firsts : plan_.all;
      join(rows.count);
      for (int64_t row = first_row_; row < last_row_; row += grid_.chunk) {
        finish(layer, pass, rows, row, smaller(grid_.chunk, last_row_ - row));
      }
    }
    wait();
    hand_out();
  }

 private:
  using Element = typename Kind::Element;
  using Heads = typename Attention::Element;

  const Plan<Kind, Attention>& plan_;
  const Encoder& problem_;
  const Batch& batch_;
  Team& team_;
  const int64_t thread_;
  Grid grid_{};
  int64_t member_ = 0;  // of the group
  int64_t first_row_ = 0;
  int64_t last_row_ = 0;

  void join(int64_t rows) {
    grid_ = grid_of(problem_, rows, team_.size);
    const int64_t group = thread_ / grid_.threads_in_group;
    member_ = thread_ % grid_.threads_in_group;
    first_row_ = group * rows / grid_.groups;
    last_row_ = (group + 1) * rows / grid_.groups;
  }

  int64_t mine(int64_t count, int64_t member) const {
    return member * count / grid_.threads_in_group;
  }

  // All threads; they spin for as long as a phase's imbalance lasts, then leave the processor to others.
  void wait() const {
    if (team_.size == 1) {
      return;
    }
    const int32_t turn = __atomic_load_n(&team_.turn, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team_.arrived, 1, __ATOMIC_ACQ_REL) == team_.size) {
      __atomic_store_n(&team_.arrived, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&team_.turn, turn + 1, __ATOMIC_RELEASE);
      return;
    }
    for (int64_t spins = 0; __atomic_load_n(&team_.turn, __ATOMIC_ACQUIRE) == turn; ++spins) {
      if (spins > 20000) {
        sched_yield();
      } else {
#ifdef ALBERT_FAST_X86
        _mm_pause();
#endif
      }
    }
  }

  // Between the phases of a group; with one group for each thread nobody else is in it.
  void wait_for_group() const {
    if (grid_.threads_in_group > 1) {
      wait();
    }
  }

  float scale(int64_t pass, int64_t which) const {
    return problem_.input_scales == nullptr ? 1.0f : problem_.input_scales[1 + 4 * pass + which];
  }

  Operand operand(const char* data, int64_t row, int64_t width) const {
    const int64_t stride = width * static_cast<int64_t>(sizeof(Element));
    return {data + row * stride, stride};
  }

  template <class Linears, class Store>
  void apply_mine(const Linear& linear, Operand a, float input_scale, int64_t rows, const Store& store_vector) const {
    const int64_t panels = round_up(linear.out, kPanel) / kPanel;
    apply<Linears>(linear, a, input_scale, rows, mine(panels, member_), mine(panels, member_ + 1), store_vector);
  }

  template <class Mapping>
  void map_embedded() {
    const int64_t width = plan_.mapping_width(), rows = last_row_ - first_row_;
    const float input_scale = problem_.input_scales == nullptr ? 1.0f : problem_.input_scales[0];
    const auto write = writer<Mapping>(input_scale);
    auto* const operand = reinterpret_cast<typename Mapping::Element*>(plan_.mapping_operand);
    for (int64_t row = first_row_ + mine(rows, member_); row < first_row_ + mine(rows, member_ + 1); ++row) {
      const float* const from = batch_.embedded + batch_.position[row] * problem_.embedding_size;
      for (int64_t i = 0; i < width; ++i) {
        write(operand + row * width + i, i < problem_.embedding_size ? from[i] : 0.0f);
      }
    }
    wait_for_group();
    const int64_t stride = width * static_cast<int64_t>(sizeof *operand);
    const Operand a{plan_.mapping_operand + first_row_ * stride, stride};
    apply_mine<Mapping>(problem_.mapping, a, input_scale, rows, [&](int64_t row, int64_t column, Floats value) {
      store(plan_.all.x + (first_row_ + row) * plan_.hidden_width + column, value);
    });
  }

  void embed() {
    switch (problem_.mapping.type) {
      case Type::float32:
        map_embedded<Float32>();
        break;
      case Type::bfloat16:
        map_embedded<BFloat16s>();
        break;
      case Type::int8:
        map_embedded<UnsignedBytes>();
        break;
    }
    wait_for_group();
    if constexpr (Kind::type != Type::float32) {
      const int64_t rows = last_row_ - first_row_;
      const auto write = writer<Kind>(scale(0, 0));
      for (int64_t row = first_row_ + mine(rows, member_); row < first_row_ + mine(rows, member_ + 1); ++row) {
        const int64_t begin = row * plan_.hidden_width;
        for (int64_t i = 0; i < plan_.hidden_width; i += kLanes) {
          write(reinterpret_cast<Element*>(plan_.all.operand) + begin + i, load(plan_.all.x + begin + i));
        }
      }
      wait_for_group();
    }
  }

  void store_qkv(int64_t row, int64_t column, Floats value) const {
    store(plan_.qkv + row * plan_.qkv_width + column, value);
  }

  void query_all(const Layer& layer, int64_t pass) const {
    const Operand a = operand(plan_.all.operand, first_row_, plan_.hidden_width);
    apply_mine<Kind>(
        layer.qkv, a, scale(pass, 0), last_row_ - first_row_,
        [&](int64_t row, int64_t column, Floats value) { store_qkv(first_row_ + row, column, value); });
  }

  // Queries of first tokens only, keys and values of all. A panel that holds both is computed in both.
  void query_firsts(const Layer& layer, int64_t pass) {
    const int64_t width = plan_.hidden_width, row_bytes = width * static_cast<int64_t>(sizeof(Element));
    const int64_t panels = round_up(layer.qkv.out, kPanel) / kPanel, first = problem_.hidden_size / kPanel;
    const int64_t rows = last_row_ - first_row_;
    apply<Kind>(
        layer.qkv, operand(plan_.all.operand, first_row_, width), scale(pass, 0), rows,
        first + mine(panels - first, member_), first + mine(panels - first, member_ + 1),
        [&](int64_t row, int64_t column, Floats value) { store_qkv(first_row_ + row, column, value); });
    wait();  // other groups' rows are read now
    for (int64_t text = thread_; text < batch_.batch; text += team_.size) {
      const int64_t row = batch_.texts[text].begin;
      memcpy(plan_.firsts.x + text * width, plan_.all.x + row * width, width * sizeof(float));
      if constexpr (Kind::type != Type::float32) {
        memcpy(plan_.firsts.operand + text * row_bytes, plan_.all.operand + row * row_bytes, row_bytes);
      }
    }
    wait();
    const int64_t query_panels = width / kPanel;
    apply<Kind>(
        layer.qkv, operand(plan_.firsts.operand, 0, width), scale(pass, 0), batch_.batch,
        thread_ * query_panels / team_.size, (thread_ + 1) * query_panels / team_.size,
        [&](int64_t row, int64_t column, Floats value) {
          store(plan_.first_queries + row * width + column, value);
        });
  }

  // Units of attention, a head of a text or a part of its queries, go to whoever is free.
  void attention(int64_t pass, bool firsts) {
    const int64_t items = batch_.batch * problem_.num_heads;
    int64_t parts = 1;
    if (!firsts && items < 4 * team_.size) {
      parts = larger(1, smaller((4 * team_.size + items - 1) / items, batch_.length / kQueriesWorthAnItem));
    }
    if (team_.size == 1 || items % team_.size == 0) {
      parts = 1;
    }
    for (;;) {
      const int64_t item = __atomic_fetch_add(&team_.next_item[pass], 1, __ATOMIC_RELAXED);
      if (item >= items * parts) {
        return;
      }
      const int64_t text = item / parts / problem_.num_heads, head = item / parts % problem_.num_heads;
      attend_item(pass, text, head, item % parts, parts, firsts);
    }
  }

  void attend_item(int64_t pass, int64_t index, int64_t head, int64_t part, int64_t parts, bool firsts) const {
    const Text& text = batch_.texts[index];
    const int64_t size = problem_.hidden_size / problem_.num_heads, width = plan_.hidden_width;
    const int64_t length = text.end - text.begin;
    const int64_t first_query = firsts ? 0 : part * length / parts;
    const int64_t last_query = firsts ? 1 : (part + 1) * length / parts;
    const Heads* const row = plan_.qkv + text.begin * plan_.qkv_width + head * size;
    const Heads* const key = plan_.qkv + text.first_key * plan_.qkv_width + problem_.hidden_size + head * size;
    const Head<Attention> work{
        firsts ? plan_.first_queries + index * width + head * size : row + first_query * plan_.qkv_width,
        firsts ? width : plan_.qkv_width,
        key,
        key + problem_.hidden_size,
        plan_.qkv_width,
        last_query - first_query,
        text.end - text.first_key,
        size,
        problem_.attention_scale};
    const Rows& rows = firsts ? plan_.firsts : plan_.all;
    Element* const context = reinterpret_cast<Element*>(rows.context) +
        (firsts ? index : text.begin + first_query) * width + head * size;
    const auto write = writer<Kind>(scale(pass, 1));
    attend(
        work, plan_.scratch + thread_ * plan_.scratch_bytes,
        [&](int64_t query, int64_t channel, Floats value, bool whole) {
          Element* const place = context + query * width + channel;
          if (whole) {
            write(place, value);
          } else {
            for (int64_t lane = 0; channel + lane < size; ++lane) {
              write(place + lane, value[lane]);
            }
          }
        });
    if (head == problem_.num_heads - 1) {
      for (int64_t query = 0; query < work.num_queries; ++query) {
        for (int64_t i = size; head * size + i < width; ++i) {
          write(context + query * width + i, 0.0f);
        }
      }
    }
  }

  void normalize_mine(const Norm& norm, const Rows& rows, int64_t first, int64_t count, float operand_scale) const {
    const auto write = writer<Kind>(operand_scale);
    for (int64_t row = first + mine(count, member_); row < first + mine(count, member_ + 1); ++row) {
      const int64_t begin = row * plan_.hidden_width;
      normalize<Kind>(
          rows.y + begin, problem_.hidden_size, norm, problem_.eps, rows.x + begin,
          reinterpret_cast<Element*>(rows.operand) + begin, write);
    }
  }

  // What follows attention in a pass, on some rows: projection and residual, LayerNorm, feed-forward and residual,
  // LayerNorm.
  void finish(const Layer& layer, int64_t pass, const Rows& rows, int64_t first, int64_t count) const {
    const int64_t width = plan_.hidden_width, middle_width = round_up(layer.ffn.out, kPanel);
    char* const middle = plan_.middle + thread_ / grid_.threads_in_group * plan_.middle_bytes;
    const auto add_residual = [&](int64_t row, int64_t column, Floats value) {
      const int64_t place = (first + row) * width + column;
      store(rows.y + place, value + load(rows.x + place));
    };
    apply_mine<Kind>(layer.dense, operand(rows.context, first, width), scale(pass, 1), count, add_residual);
    wait_for_group();
    normalize_mine(layer.attention_norm, rows, first, count, scale(pass, 2));
    wait_for_group();
    const auto write = writer<Kind>(scale(pass, 3));
    apply_mine<Kind>(
        layer.ffn, operand(rows.operand, first, width), scale(pass, 2), count,
        [&](int64_t row, int64_t column, Floats value) {
          write(
              reinterpret_cast<Element*>(middle) + row * middle_width + column,
              activate<Kind::rough>(problem_.activation, value));
        });
    wait_for_group();
    apply_mine<Kind>(layer.ffn_output, operand(middle, 0, middle_width), scale(pass, 3), count, add_residual);
    wait_for_group();
    normalize_mine(layer.output_norm, rows, first, count, pass + 1 < problem_.passes ? scale(pass + 1, 0) : 1.0f);
    wait_for_group();
  }

  // The last hidden state in the padded batch's places.
  void hand_out() const {
    const int64_t size = problem_.hidden_size, row_bytes = size * static_cast<int64_t>(sizeof(float));
    if (problem_.first_token_only) {
      for (int64_t text = thread_; text < batch_.batch; text += team_.size) {
        memcpy(batch_.result + text * size, plan_.firsts.x + text * plan_.hidden_width, row_bytes);
      }
      return;
    }
    for (int64_t text = thread_; text < batch_.batch; text += team_.size) {
      int64_t next = text * batch_.length;
      for (int64_t row = batch_.texts[text].begin; row < batch_.texts[text].end; ++row) {
        const int64_t place = batch_.position[row];
        memset(batch_.result + next * size, 0, (place - next) * row_bytes);
        memcpy(batch_.result + place * size, plan_.all.x + row * plan_.hidden_width, row_bytes);
        next = place + 1;
      }
      memset(batch_.result + next * size, 0, ((text + 1) * batch_.length - next) * row_bytes);
    }
  }
};

// Calls use(Kind{}, Attention{}) with the kinds that the encoder is of.
template <class Use>
inline auto with_kinds(const Encoder& problem, const Use& use) {
  switch (problem.layers[0].qkv.type) {
    case Type::float32:
      return use(Float32{}, Float32{});
    case Type::bfloat16:
      return use(BFloat16s{}, BFloat16s{});
    case Type::int8:
      break;
  }
  return problem.attention == Type::float32 ? use(UnsignedBytes{}, Float32{}) : use(UnsignedBytes{}, BFloat16s{});
}

int64_t workspace_bytes(const Encoder& problem, const Batch& batch, int64_t threads) {
  return with_kinds(problem, [&](auto kind, auto attention) {
    return Plan<decltype(kind), decltype(attention)>(problem, batch, threads, nullptr).bytes;
  });
}

void run(const Encoder& problem, const Batch& batch, Team& team, int64_t thread, char* workspace) {
  with_kinds(problem, [&](auto kind, auto attention) {
    const Plan<decltype(kind), decltype(attention)> plan(problem, batch, team.size, workspace);
    Thread<decltype(kind), decltype(attention)>(plan, team, thread).run();
  });
}

}  // namespace

#define ALBERT_FAST_NAME_OF(isa) #isa
#define ALBERT_FAST_NAME(isa) ALBERT_FAST_NAME_OF(isa)
const EncoderKernels encoder = {ALBERT_FAST_NAME(ALBERT_FAST_ISA), workspace_bytes, run};

}  // namespace albert_fast::ALBERT_FAST_ISA
