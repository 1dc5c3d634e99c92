#include "elbo/operations/dense.h"

namespace elbo {

void DenseForward::check() const {
  const std::int64_t rows = x.rows(), in = x.columns(), out = weight.rows();
  check_tensor(name, "x", x, DType::f32, {rows, in});
  check_tensor(name, "weight", weight, DType::f32, {out, in});
  check_tensor(name, "bias", bias, DType::f32, {out});
  check_tensor(name, "y", y, DType::f32, {rows, out});
  if (mask) check_tensor(name, "mask", mask, DType::u8, {rows, mask_bytes(out)});
  require(!mask || activation == Activation::relu, name, ": a mask is of relu alone");
}

std::string DenseForward::sizes() const { return cat(x.shape, " x [", weight.columns(), ", ", weight.rows(), "]"); }

double DenseForward::flops() const { return 2.0 * static_cast<double>(x.rows()) * static_cast<double>(weight.count()); }

void DenseBackward::check() const {
  const std::int64_t rows = x.rows(), in = x.columns(), out = weight.rows();
  check_tensor(name, "x", x, DType::f32, {rows, in});
  check_tensor(name, "weight", weight, DType::f32, {out, in});
  check_tensor(name, "dz", dz, DType::f32, {rows, out});
  require(dweight || dx, name, ": neither dweight nor dx is wanted");
  require(static_cast<bool>(dweight) == static_cast<bool>(dbias), name, ": dweight and dbias come together");
  if (dweight) check_tensor(name, "dweight", dweight, DType::f32, {out, in});
  if (dbias) check_tensor(name, "dbias", dbias, DType::f32, {out});
  if (mask) check_tensor(name, "mask", mask, DType::u8, {rows, mask_bytes(in)});
  require(!mask || input_activation == Activation::relu, name, ": a mask is of relu alone");
  if (dx) check_tensor(name, "dx", dx, DType::f32, {rows, in});
}

std::string DenseBackward::sizes() const {
  std::string text;
  if (dweight) text = cat(dz.shape, "' x ", x.shape);
  if (dx) text += cat(text.empty() ? "" : ", ", dz.shape, " x ", weight.shape);
  return text;
}

double DenseBackward::flops() const {
  const int products = (dweight ? 1 : 0) + (dx ? 1 : 0);
  return products * 2.0 * static_cast<double>(x.rows()) * static_cast<double>(weight.count());
}

void ActivationBackward::check() const {
  check_tensor(name, "y", y, DType::f32, y.shape);
  check_tensor(name, "dy", dy, DType::f32, y.shape);
  check_tensor(name, "dx", dx, DType::f32, y.shape);
}

void Add::check() const {
  check_tensor(name, "a", a, DType::f32, a.shape);
  check_tensor(name, "b", b, DType::f32, a.shape);
  check_tensor(name, "sum", sum, DType::f32, a.shape);
}

}  // namespace elbo
